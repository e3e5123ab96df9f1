"""What a host that joins in mid-run costs the others, and how soon it serves.

Everybody is behind a line of one rate, in a namespace of its own, and computes on an emulated device, so that neither
the joiner's start nor its arithmetic takes processor time from the others.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.history import History, Step, read_folders, union
from benchmarks.chaos.stalls import step_seconds
from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.wan.namespaces import Line, shaped
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama

CONTEXT_TOKENS = 64
GLOBAL_BATCH = 6
WARMUP_STEPS = 3
SETTLE_STEPS = 2
"""After the joiner's first plan: the pipeline fills."""
LIMIT_S = 300.0

QUICK = {"width": 96, "quiet_s": 10.0, "joins": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    hosts: int = 2
    """That the run begins with, in one stage."""
    joins: int = 3
    """Hosts that join, one after the other."""
    layers: int = 4
    """Of the trunk."""
    width: int = 256
    """Of the model."""
    layer_s: float = 0.05
    """Emulated, of one layer and one microbatch."""
    line_mbit: float = 100.0
    """Everybody's, up and down."""
    quiet_s: float = 30.0
    """Measured before each join."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One host's way in, by the wall clock.

    Attributes:
        started_at_s: its process.
        admitted_at_s: it had measured nothing yet.
        wanted_at_s: the leader proposed a plan with it.
        serves_at_s: the plan holds: it has the state.
    """

    peer: str
    quiet_from_s: float
    started_at_s: float
    admitted_at_s: float
    wanted_at_s: float
    serves_at_s: float


def run(options: Options) -> Result:
    """Let hosts join one after the other, and look at the ledger.

    Raises:
        ConfigError: not root.
        RunError: the swarm did not start.
        DeadlineExceeded: a host does not get in.
    """
    folder = Path(tempfile.mkdtemp(prefix="swarm-join-"))
    values = run_values(options)
    with _fleet(options, values, folder) as fleet:
        fleet.wait_step(WARMUP_STEPS, LIMIT_S)
        fleet.scheduler.wait_for("checkpoint", timeout_s=LIMIT_S)
        joined = [_join(fleet, f"host-{options.hosts + number}", options) for number in range(options.joins)]
        last = max(event["step"] for event in fleet.scheduler.events if event["event"] == "step")
        fleet.wait_step(last + SETTLE_STEPS + 2, LIMIT_S)
        history = union(read_folders([fleet.run_dir])[0])
        state_bytes = _state_bytes(fleet, options)
    metrics, samples = figures(history, joined, state_bytes, options.line_mbit * 1e6 / 8)
    return Result.measured("join", options, metrics, samples, run=values)


def run_values(options: Options) -> dict[str, Any]:
    """The run.toml; momentum, so that there is an optimizer's state to fetch."""
    model = byte_llama(
        num_layers=options.layers + 2,
        width=options.width,
        context_tokens=CONTEXT_TOKENS,
        num_heads=4,
        mlp_width=3 * options.width,
    )
    return {
        "name": "join",
        "seed": options.seed,
        "model": model,
        "data": {"context_tokens": CONTEXT_TOKENS, "held_out_fraction": 0.0},
        "batch": {"microbatch_sequences": 2, "global_batch_microbatches": GLOBAL_BATCH},
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9, "warmup_steps": 2},
        "schedule": {"steps": 1_000_000, "checkpoint_every_steps": WARMUP_STEPS},
    }


@contextlib.contextmanager
def _fleet(options: Options, values: dict[str, Any], folder: Path) -> Iterator[Fleet]:
    shards = write_random_shards(folder / "text", options.seed, 1, 200_000)
    hosts = [f"host-{number}" for number in range(options.hosts + options.joins)]
    line = Line(options.line_mbit, options.line_mbit)
    device = ("--device", f"emulated:{options.layer_s}")
    with shaped(dict.fromkeys(["scheduler", "owner-0", *hosts], line)) as places:
        arguments = {
            name: ("--host", place.address, *(device if name in hosts else ())) for name, place in places.items()
        }
        wrappers = {name: place.wrapper for name, place in places.items()}
        with Fleet(folder / "fleet", values, shards, options.hosts, 1, options=arguments, wrappers=wrappers) as fleet:
            yield fleet


def _join(fleet: Fleet, name: str, options: Options) -> Joined:
    """Watch the run for a while, start a host, and wait until a plan that holds counts on it."""
    quiet_from_s = time.time()
    newest = max(event["step"] for event in fleet.scheduler.events if event["event"] == "step")
    fleet.scheduler.wait_until(
        lambda event: event["event"] == "step" and event["time_s"] > quiet_from_s + options.quiet_s,
        f"steps after {newest}",
        options.quiet_s + LIMIT_S,
    )
    started_at_s = time.time()
    program = fleet.join(name, fleet.run_dir / "invites" / "host.txt")
    admitted = program.wait_for("joined", timeout_s=LIMIT_S)
    peer = str(admitted["peer"])
    wanted = fleet.scheduler.wait_for("plan_change", lambda event: peer in str(event["reasons"]), LIMIT_S)
    serves = fleet.scheduler.wait_for("plan", lambda event: peer in str(event["stages"]), LIMIT_S)
    return Joined(peer, quiet_from_s, started_at_s, admitted["time_s"], wanted["time_s"], serves["time_s"])


def _state_bytes(fleet: Fleet, options: Options) -> int:
    """Of the trunk in a checkpoint: the weights and the optimizer's state that a joiner fetches."""
    newest = max(RunDir(fleet.run_dir).checkpoints.glob("step-*"))
    layers = [f"{number:05d}" for number in range(1, 1 + options.layers)]
    parts = [path for path in newest.glob("*.safetensors") if path.stem.rpartition("-")[2] in layers]
    return sum(path.stat().st_size for path in parts)


def figures(
    history: History, joined: list[Joined], state_bytes: int, line_bytes_per_s: float
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Everything that the ledger and the events say: metrics and samples."""
    steps = history.steps
    before = [step_seconds(steps, each.quiet_from_s, each.started_at_s) for each in joined]
    during = [step_seconds(steps, each.started_at_s, each.serves_at_s) for each in joined]
    ideal_s = state_bytes / line_bytes_per_s
    load_s = [each.serves_at_s - each.wanted_at_s for each in joined]
    metrics = {
        "joins": len(joined),
        "state_bytes": state_bytes,
        "ideal_load_s": ideal_s,
        "start_s": statistics.median(each.admitted_at_s - each.started_at_s for each in joined),
        "measure_s": statistics.median(each.wanted_at_s - each.admitted_at_s for each in joined),
        "load_s": statistics.median(load_s),
        "load_vs_ideal": statistics.median(load_s) / ideal_s,
        "start_to_serving_s": statistics.median(each.serves_at_s - each.started_at_s for each in joined),
        "step_s_before": statistics.median([seconds for each in before for seconds in each]),
        "step_s_during": statistics.median([seconds for each in during for seconds in each]),
        "step_s_during_vs_before": statistics.median(
            statistics.median(while_joining) / statistics.median(quiet)
            for quiet, while_joining in zip(before, during, strict=True)
            if quiet and while_joining
        ),
        "joiners_at_work": sum(_works(steps, each) for each in joined),
    }
    samples = {
        "step_s_before": [seconds for each in before for seconds in each],
        "step_s_during": [seconds for each in during for seconds in each],
        "load_s": load_s,
    }
    return metrics, samples


def _works(steps: list[Step], host: Joined) -> bool:
    return any(host.peer in work.route for step in steps for work in step.work)
