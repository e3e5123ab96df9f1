"""Does a swarm compute what one process computes: final weights, losses, and equal replicas, also with a host killed.

Four runs of real processes over loopback: SGD and AdamW, each undisturbed and with a host that dies by SIGKILL in the
middle of a step. One process replays each run's audit log on the unsliced model. A relative difference of weights is
the largest difference within a tensor over the largest magnitude in it, of the worst tensor.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.training_run import FinishedRun, busiest_host, largest_relative, train
from swarm.config import RunConfig
from swarm.errors import RunError
from swarm.local.fleet import Event, Fleet
from swarm.model.presets import byte_llama
from swarm.model.slices import build_full, named_global_parameters
from swarm.training.checkpoint import CheckpointReader

STAGES = 3
REPLICAS = 2
OWNERS = 2
SHARD_CHARACTERS = 20_000
RUN_TIMEOUT_S = 600.0

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "learning_rate": 0.03, "momentum": 0.9, "warmup_steps": 3},
    "adamw": {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 3},
}

QUICK = {"steps": 8}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    steps: int = 20
    """Optimizer steps of each run."""


@dataclass(slots=True)
class Assassin:
    """Kills the busiest host half a step after a third of the run's steps."""

    after_step: int
    killed_at_s: float = 0.0
    peer: str = ""
    _seen_s: list[float] = field(default_factory=list)

    def on_step(self, fleet: Fleet, event: Event) -> None:
        """See every step."""
        self._seen_s.append(event["time_s"])
        if event["step"] != self.after_step:
            return
        victim = busiest_host(fleet)
        self.peer = fleet.peer_id(victim)
        gaps = [after - before for before, after in zip(self._seen_s, self._seen_s[1:], strict=False)]
        time.sleep(statistics.median(gaps) / 2)
        fleet.programs[victim].kill()
        self.killed_at_s = time.time()

    def check(self, run: FinishedRun) -> dict[str, Any]:
        """Prove that the kill hit the run in the middle of a step, and that others did the victim's work.

        Raises:
            RunError: it did not, so that the run shows nothing.
        """
        before = [step for step in run.steps if step.committed_at_s < self.killed_at_s]
        after = run.steps[len(before) :]
        lost = {peer: step for peer, step, _ in run.lost_peers}
        used = {peer for step in before for work in step.work for peer in work.route}
        still_used = {peer for step in after[1:] for work in step.work for peer in work.route}
        replayed = sum(work.attempt > 0 for step in after for work in step.work)
        if not before or not after or self.peer not in lost or self.peer not in used or self.peer in still_used:
            raise RunError("the host was not killed while it worked", "run the case again on a quieter machine")
        if not replayed and after[0].round == 1:
            raise RunError("the kill fell between two steps and disturbed nothing", "run the case again")
        if after[-1].plan <= before[-1].plan:
            raise RunError("the run went on without a new plan", "report this: it is a bug")
        return {
            "killed_in_step": len(before),
            "killed_replayed_microbatches": replayed,
            "killed_rounds_of_that_step": after[0].round,
        }


def run(options: Options) -> Result:
    """Run all four.

    Raises:
        RunError: a process ended too early, or the kill missed.
    """
    metrics: dict[str, Any] = {"steps": options.steps}
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="swarm-equivalence-") as folder:
        shards = write_random_shards(Path(folder) / "text", options.seed, OWNERS, SHARD_CHARACTERS)
        for prefix in ("", "killed_"):
            equal = True
            for name in OPTIMIZERS:
                assassin = Assassin(max(2, options.steps // 3)) if prefix else None
                fleet = _fleet(Path(folder) / (prefix + name), options, name, shards)
                done = train(fleet, prefix + name, RUN_TIMEOUT_S, assassin.on_step if assassin else None)
                if assassin:
                    metrics |= {f"{name}_{key}": value for key, value in assassin.check(done).items()}
                compared, losses = _compare(done)
                metrics |= {f"{prefix}{name}_{key}": value for key, value in compared.items()}
                samples[f"{prefix}{name}_loss"] = losses
                equal &= done.replicas_equal()
            metrics[f"{prefix}replicas_hash_equal"] = equal
    return Result.measured(
        "equivalence",
        options,
        metrics,
        samples,
        stages=STAGES,
        replicas=REPLICAS,
        owners=OWNERS,
        run=_run_values(options, "sgd"),
        warmup_steps_left_out=0,
    )


def _run_values(options: Options, optimizer: str) -> dict[str, Any]:
    return {
        "name": f"equivalence-{optimizer}",
        "seed": options.seed,
        "model": byte_llama(num_layers=5, width=64, context_tokens=32, num_heads=4, mlp_width=128),
        "data": {"context_tokens": 32, "held_out_fraction": 0.0},
        "batch": {"microbatch_sequences": 2, "global_batch_microbatches": 8},
        "optimizer": OPTIMIZERS[optimizer],
        "schedule": {"steps": options.steps, "checkpoint_every_steps": options.steps},
    }


def _fleet(folder: Path, options: Options, optimizer: str, shards: list[Path]) -> Fleet:
    return Fleet(folder, _run_values(options, optimizer), shards, num_hosts=STAGES * REPLICAS, num_stages=STAGES)


def _compare(done: FinishedRun) -> tuple[dict[str, float], list[float]]:
    """Differences from the reference; how far the weights moved, so that a difference means something; losses."""
    reference, _ = done.replay(threads=1)
    ours = _final_weights(done)
    losses = [step.loss_sum / step.tokens for step in done.steps]
    reference_losses = [step.mean_loss for step in reference.steps]
    compared = {
        "max_rel_diff": _weights_differ(ours, reference.weights),
        "max_rel_change": _weights_differ(ours, _initial_weights(done.config)),
        "loss_max_rel_diff": largest_relative(list(zip(losses, reference_losses, strict=True))),
        "grad_norm_max_rel_diff": largest_relative(
            [(step.grad_norm, replayed.grad_norm) for step, replayed in zip(done.steps, reference.steps, strict=True)]
        ),
    }
    return compared, losses


def _final_weights(done: FinishedRun) -> dict[str, Tensor]:
    reader = CheckpointReader(done.checkpoint)
    if reader.step != done.config.schedule.steps:
        raise RunError(f"the last checkpoint is of step {reader.step}", "see the run's log")
    return {
        name: tensor for part in reader.parts if part.startswith("model-") for name, tensor in reader.part(part).items()
    }


def _initial_weights(config: RunConfig) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in named_global_parameters(build_full(config))}


def _weights_differ(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    if ours.keys() != theirs.keys():
        raise RunError("the checkpoint holds other parameters than the model", "report this: it is a bug")
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs)
