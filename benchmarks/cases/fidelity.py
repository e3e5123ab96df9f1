"""Does a swarm do what its plan predicts, and what the simulator says: real processes, emulated devices, shaped lines.

Every mix is a real swarm on this machine: its hosts take the time that stated devices would take for each layer, and in
some mixes each peer is in a network namespace behind a line of a stated rate (root only). The prediction is the one
that the scheduler made with the plan that held last, from what peers measured; the simulator gets the same
measurements and the same plan. Steps under that plan are timed by their commits, without the first two; a mix's
throughput is that of the median step.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.simulator.measured import replayed
from benchmarks.simulator.run import simulate
from benchmarks.training_run import train
from benchmarks.wan.namespaces import Line, shaped
from scheduler.run_dir import RunDir
from swarm.errors import RunError
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama

CONTEXT_TOKENS = 64
SEQUENCES = 2
GLOBAL_BATCH = 24
TRUNK_LAYERS = 6
SHARD_CHARACTERS = 20_000
SKIPPED_STEPS = 2
RUN_TIMEOUT_S = 400.0

QUICK = {"steps": 6, "most_mixes": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    steps: int = 12
    """Optimizer steps of each run."""
    most_mixes: int = 100
    """Later mixes are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """A swarm.

    Attributes:
        layer_s: of each host, forward and backward of one layer for one microbatch.
        stages: 0 leaves them to the planner.
        lines: by program name; all others have no limit. Empty for plain loopback.
    """

    name: str
    layer_s: tuple[float, ...]
    stages: int = 0
    owners: int = 1
    lines: Mapping[str, Line] = field(default_factory=dict)
    planner: str = "best"


THIN = Line(2.0, 4.0)
MIXES = (
    Mix(name="four_to_one", layer_s=(0.03, 0.12, 0.12), stages=3),
    Mix(name="four_to_one_uniform", layer_s=(0.03, 0.12, 0.12), stages=3, planner="uniform"),
    Mix(name="alike", layer_s=(0.05, 0.05, 0.05, 0.05), stages=2),
    Mix(name="two_owners", layer_s=(0.04, 0.06, 0.09), stages=2, owners=2),
    Mix(name="pairs", layer_s=(0.04, 0.16, 0.05, 0.12), stages=2),
    Mix(name="planner_chooses", layer_s=(0.03, 0.05, 0.08, 0.12)),
    Mix(
        name="thin_lines",
        layer_s=(0.04, 0.04, 0.04),
        stages=3,
        lines={f"host-{number}": THIN for number in range(3)},
    ),
    Mix(
        name="thin_reduce",
        layer_s=(0.04, 0.04, 0.05, 0.05),
        stages=2,
        lines={"host-0": Line(4.0, 8.0), "host-1": Line(8.0, 8.0)},
    ),
)


def run(options: Options) -> Result:
    """Run every mix.

    Raises:
        ConfigError: not root.
        RunError: a swarm fails.
    """
    mixes = [_run_mix(mix, options) for mix in MIXES[: options.most_mixes]]
    by_name = {mix["name"]: mix for mix in mixes}
    planned, uniform = by_name["four_to_one"], by_name["four_to_one_uniform"]
    metrics = {
        "mixes": mixes,
        "max_rel_error": max(abs(mix["rel_error"]) for mix in mixes),
        "simulator_max_rel_error": max(abs(mix["simulator_rel_error"]) for mix in mixes),
        "four_to_one_measured_factor": planned["measured_tokens_per_s"] / uniform["measured_tokens_per_s"],
        "four_to_one_predicted_factor": planned["predicted_tokens_per_s"] / uniform["predicted_tokens_per_s"],
    }
    return Result.measured("fidelity", options, metrics, {mix["name"]: mix.pop("step_s") for mix in mixes})


def _run_mix(mix: Mix, options: Options) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="swarm-fidelity-") as folder:
        return _run_in(Path(folder), mix, options)


def _run_in(folder: Path, mix: Mix, options: Options) -> dict[str, Any]:
    values = _run_values(options.steps)
    shards = write_random_shards(folder / "text", options.seed, mix.owners, SHARD_CHARACTERS)
    with _placed(mix) as (arguments, wrappers):
        fleet = Fleet(
            folder / "fleet", values, shards, len(mix.layer_s), mix.stages, options=arguments, wrappers=wrappers
        )
        done = train(fleet, mix.name, RUN_TIMEOUT_S)
    status = json.loads(RunDir(fleet.run_dir).status.read_bytes())
    plan = status["plan"]
    committed_at_s = [step.committed_at_s for step in done.steps if step.plan == plan["number"]]
    step_s = [after - before for before, after in itertools.pairwise(committed_at_s[SKIPPED_STEPS - 1 :])]
    if len(step_s) < options.steps // 2:
        raise RunError(f"{mix.name} changed its plan too late to be measured", "run it again with more --steps")
    tokens = GLOBAL_BATCH * SEQUENCES * CONTEXT_TOKENS
    measured = tokens / statistics.median(step_s)
    predicted = plan["predicted_tokens_per_s"]
    simulated = simulate(replayed(done.config, status, options.steps)).median_tokens_per_s(SKIPPED_STEPS)
    return {
        "name": mix.name,
        "layer_s": list(mix.layer_s),
        "shaped": bool(mix.lines),
        "spans": [stage["layers"] for stage in plan["stages"]],
        "replicas": [len(stage["replicas"]) for stage in plan["stages"]],
        "measured_tokens_per_s": measured,
        "predicted_tokens_per_s": predicted,
        "rel_error": predicted / measured - 1,
        "simulated_tokens_per_s": simulated,
        "simulator_rel_error": simulated / measured - 1,
        "gap": status["first_plan"]["gap"],
        "step_s": step_s,
    }


@contextlib.contextmanager
def _placed(mix: Mix) -> Iterator[tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]]:
    """Arguments and wrappers by program name."""
    hosts = [f"host-{number}" for number in range(len(mix.layer_s))]
    arguments: dict[str, tuple[str, ...]] = {"scheduler": ("--planner", mix.planner)}
    arguments |= {name: ("--device", f"emulated:{layer_s}") for name, layer_s in zip(hosts, mix.layer_s, strict=True)}
    if not mix.lines:
        yield arguments, {}
        return
    names = ["scheduler", *(f"owner-{number}" for number in range(mix.owners)), *hosts]
    with shaped({name: mix.lines.get(name, Line()) for name in names}) as places:
        for name, place in places.items():
            arguments[name] = (*arguments.get(name, ()), "--host", place.address)
        yield arguments, {name: place.wrapper for name, place in places.items()}


def _run_values(steps: int) -> dict[str, Any]:
    return {
        "name": "fidelity",
        "model": byte_llama(
            num_layers=TRUNK_LAYERS + 2, width=64, context_tokens=CONTEXT_TOKENS, num_heads=2, mlp_width=128
        ),
        "data": {"context_tokens": CONTEXT_TOKENS},
        "batch": {"microbatch_sequences": SEQUENCES, "global_batch_microbatches": GLOBAL_BATCH},
        "optimizer": {"name": "sgd", "learning_rate": 0.03, "momentum": 0.9},
        "numerics": {"boundary_codec": "bf16"},
        "schedule": {"steps": steps, "checkpoint_every_steps": 1000},
    }
