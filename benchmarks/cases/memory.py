"""Whether a host takes the memory that the planner says it does.

One host holds the whole trunk. Before it gets its layers, its process has a size; from then on the planner counts what
each layer keeps for training, and the graphs of all microbatches that the plan lets be in flight. Measured is the
resident set of its process (the network daemon's is another one), step by step.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama

CONTEXT_TOKENS, SEQUENCES, GLOBAL_BATCH = 128, 2, 8
WARMUP_STEPS = 2
"""The optimizer's state is made in the first step, and the allocator has seen everything after the second."""
SAMPLE_S = 0.05
LIMIT_S = 600.0

QUICK = {"width": 256, "steps": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    layers: int = 6
    """Of the trunk."""
    width: int = 768
    """Of the model."""
    steps: int = 4
    """Measured."""


@dataclass(slots=True)
class _Watch:
    """Samples a process's resident set until it is closed."""

    pid: int
    samples: list[float] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> _Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        process = psutil.Process(self.pid)
        while not self._ended.wait(SAMPLE_S):
            self.samples.append(float(process.memory_info().rss))


def run(options: Options) -> Result:
    """Train some steps on one host.

    Raises:
        RunError: a process ended too early.
    """
    values = _run_values(options)
    with tempfile.TemporaryDirectory(prefix="swarm-memory-") as folder:
        before_bytes, samples, facts = _train(Path(folder), values, options)
    host_facts = next(each for each in facts["peers"].values() if "host" in each["roles"])
    layers_bytes = options.layers * host_facts["layer_bytes"]
    graphs_bytes = options.layers * host_facts["graph_bytes"] * facts["plan"]["window"]
    predicted = before_bytes + layers_bytes + graphs_bytes
    measured = statistics.median(samples)
    metrics = {
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "peak_bytes": max(samples),
        "measured_over_predicted": measured / predicted,
        "peak_over_predicted": max(samples) / predicted,
        "before_bytes": before_bytes,
        "layers_bytes": layers_bytes,
        "graphs_bytes": graphs_bytes,
    }
    return Result.measured("memory", options, metrics, {"resident_bytes": samples}, run=values)


def _train(folder: Path, values: dict[str, Any], options: Options) -> tuple[int, list[float], dict[str, Any]]:
    """The host's resident set before it gets layers, samples of it while it trains, and the run's status then."""
    shards = write_random_shards(folder / "text", options.seed, 1, 200_000)
    with Fleet(folder / "fleet", values, shards, num_hosts=1, num_stages=1) as fleet:
        host = fleet.programs["host-0"]
        host.wait_until(lambda event: "announced" in str(event.get("text")), "its announcement", LIMIT_S)
        before_bytes = psutil.Process(host.process.pid).memory_info().rss
        fleet.wait_step(WARMUP_STEPS, LIMIT_S)
        with _Watch(host.process.pid) as watch:
            fleet.wait_step(WARMUP_STEPS + options.steps, LIMIT_S)
        return before_bytes, watch.samples, json.loads(RunDir(fleet.run_dir).status.read_bytes())


def _run_values(options: Options) -> dict[str, Any]:
    return {
        "name": "memory",
        "seed": options.seed,
        "model": byte_llama(
            num_layers=options.layers + 2,
            width=options.width,
            num_heads=8,
            mlp_width=3 * options.width,
            context_tokens=CONTEXT_TOKENS,
        ),
        "data": {"context_tokens": CONTEXT_TOKENS, "held_out_fraction": 0.0},
        "batch": {"microbatch_sequences": SEQUENCES, "global_batch_microbatches": GLOBAL_BATCH},
        "schedule": {"steps": 10_000, "checkpoint_every_steps": 10_000},
    }
