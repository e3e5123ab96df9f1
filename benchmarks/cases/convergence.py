"""Does a swarm learn as well as one process: a small Llama on a text, against the same batches without a swarm.

The size of nanoGPT's character model for a CPU. The first 90 % of the text are split between two data owners; the
validation loss is the mean over all of the last 10 %, in windows that do not overlap. The single process replays the
run's audit log, so that both see the same microbatches in the same order.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.corpora import read_text
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.training_run import FinishedRun, largest_relative, train
from swarm.data.tokenizer import ByteTokenizer, TokenArray
from swarm.errors import ConfigError
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama
from swarm.training.assemble import assemble
from swarm.training.checkpoint import CheckpointReader
from swarm.training.evaluate import validation_loss
from swarm.training.reference import Reference, ReplayedStep

OWNERS = 2
SEQUENCES = 12
CONTEXT_TOKENS = 64
TRAINING_SHARE = 0.9
VALIDATION_BATCH = 256
RUN_TIMEOUT_S = 7200.0

QUICK = {"steps": 40}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    corpus: Path = Path()
    """A UTF-8 text, such as tinyshakespeare."""
    steps: int = 2000
    """Optimizer steps."""
    hosts: int = 4
    """Volunteers."""
    stages: int = 2
    """Of the two trunk layers: 1 or 2."""
    microbatches: int = 4
    """That the 12 windows of a step are cut into."""


def run(options: Options) -> Result:
    """Train, replay, and validate both.

    Raises:
        ShardUnreadable: no corpus, or not text.
        ConfigError: 12 windows cannot be cut that way.
        RunError: a process ended too early.
    """
    if SEQUENCES % options.microbatches:
        raise ConfigError(f"--microbatches is {options.microbatches}", f"choose a divisor of {SEQUENCES}")
    text = read_text(options.corpus)
    with tempfile.TemporaryDirectory(prefix="swarm-convergence-") as folder:
        shards, validation = _split(text, Path(folder) / "text")
        fleet = Fleet(Path(folder) / "fleet", _run_values(options), shards, options.hosts, options.stages)
        done = train(fleet, "swarm", RUN_TIMEOUT_S)
        reference, single_s = _replay(done)
        reader = CheckpointReader(done.checkpoint)
        val_loss = validation_loss(assemble(reader), validation, CONTEXT_TOKENS, VALIDATION_BATCH)
        single_loss = validation_loss(reference.model, validation, CONTEXT_TOKENS, VALIDATION_BATCH)
        losses = [step.loss_sum / step.tokens for step in done.steps]
        single_losses = [step.mean_loss for step in reference.steps]
        tokens = sum(step.tokens for step in done.steps)
    metrics = {
        "steps": len(losses),
        "val_loss": val_loss,
        "single_process_val_loss": single_loss,
        "rel_diff": largest_relative([(val_loss, single_loss)]),
        "wall_s": done.wall_s,
        "single_process_wall_s": single_s,
        "tokens_per_s": tokens / done.wall_s,
        "single_process_tokens_per_s": tokens / single_s,
        "train_loss_max_rel_diff": largest_relative(list(zip(losses, single_losses, strict=True))),
    }
    samples = {"loss": losses, "single_process_loss": single_losses}
    return Result.measured(
        "convergence",
        options,
        metrics,
        samples,
        owners=OWNERS,
        run=_run_values(options),
        single_process_torch_threads=1,
        peer_torch_threads=1,
    )


def _run_values(options: Options) -> dict[str, Any]:
    return {
        "name": "convergence",
        "seed": options.seed,
        # 344 gives the gated MLP as many parameters as nanoGPT's 512 wide one without a gate.
        "model": byte_llama(num_layers=4, width=128, context_tokens=CONTEXT_TOKENS, num_heads=4, mlp_width=344),
        "data": {"context_tokens": CONTEXT_TOKENS, "held_out_fraction": 0.0},
        "batch": {
            "microbatch_sequences": SEQUENCES // options.microbatches,
            "global_batch_microbatches": options.microbatches,
        },
        "optimizer": {
            "learning_rate": 1e-3,
            "final_learning_rate_fraction": 0.1,
            "warmup_steps": min(100, options.steps // 4),
            "beta2": 0.99,
            "weight_decay": 0.1,
            "max_grad_norm": 1.0,
        },
        "schedule": {"steps": options.steps, "checkpoint_every_steps": options.steps},
    }


def _split(whole: str, folder: Path) -> tuple[list[Path], TokenArray]:
    """One file an owner, from the first 90 %, and the tokens of the rest; cuts fall between characters."""
    num_training = int(len(whole) * TRAINING_SHARE)
    share = -(-num_training // OWNERS)
    folder.mkdir(parents=True)
    shards = []
    for owner in range(OWNERS):
        shards.append(folder / f"owner-{owner}.txt")
        end = min(num_training, share * (owner + 1))
        shards[-1].write_bytes(whole[share * owner : end].encode("utf-8"))
    return shards, ByteTokenizer().encode(whole[num_training:])


def _replay(done: FinishedRun) -> tuple[Reference, float]:
    """As `FinishedRun.replay`, with progress."""
    with Progress(transient=True) as progress:
        task = progress.add_task("one process", total=done.config.schedule.steps)

        def on_step(step: ReplayedStep) -> None:
            progress.update(task, completed=step.step + 1, description=f"one process: loss {step.mean_loss:.3f}")

        return done.replay(threads=1, on_step=on_step)
