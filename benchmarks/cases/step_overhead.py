"""What a step costs beside its computing: the leader's part, on loopback and behind a slow line.

Three stages of two replicas, a data owner and a scheduler, with a model so small that computing it hardly counts. The
overhead is the time from the last microbatch to the commit on disk, by the leader's own clock: everybody's books are
closed, six hosts and the owner prepare, reduce and vouch for their averages, the audit log is synced. How often a step
waits for the leader is the time that a line of a stated delay between the leader and everybody else adds to a whole
step, over that line's round trip (root only: network namespaces).
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.statistics import summary
from benchmarks.wan.emulator import Site, emulated
from benchmarks.wan.wires import Network, PeerLine, Way
from swarm.local.fleet import Event, Fleet
from swarm.model.presets import byte_llama

STAGES, REPLICAS = 3, 2
CONTEXT_TOKENS, SEQUENCES, GLOBAL_BATCH = 32, 2, 12
SKIPPED_STEPS = 5
SHARD_CHARACTERS = 40_000
STEP_TIMEOUT_S = 180.0
LEADER = "scheduler"
PEERS = ("owner-0", *(f"host-{number}" for number in range(STAGES * REPLICAS)))

QUICK = {"steps": 5, "delay_ms": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    steps: int = 40
    """Measured optimizer steps."""
    delay_ms: float = 100.0
    """One way, of the slow line to the leader; 0 leaves it out, as does a user who is not root."""


def run(options: Options) -> Result:
    """Measure on loopback, then in an emulated network without and with the delay.

    Raises:
        RunError: a process ended too early.
    """
    loopback = _events(options, {})
    overheads_ms = [1000 * sum(s for phase, s in each["phase_s"].items() if phase != "open") for each in loopback]
    metrics: dict[str, Any] = {
        "overhead_ms_per_step": statistics.median(overheads_ms),
        "overhead_ms": summary(overheads_ms),
        "phase_ms": {
            phase: 1000 * statistics.median([each["phase_s"].get(phase, 0.0) for each in loopback])
            for phase in ("open", "closing", "reducing", "recording")
        },
    }
    samples = {"overhead_ms": overheads_ms, "step_s": _step_seconds(loopback)}
    if options.delay_ms and os.geteuid() == 0:
        for name, delay_ms in (("near", 0.0), ("far", options.delay_ms)):
            samples[f"step_s_{name}"] = _step_seconds(_behind_a_line(options, delay_ms))
        added_s = statistics.median(samples["step_s_far"]) - statistics.median(samples["step_s_near"])
        metrics["leader_round_trips"] = added_s / (2 * options.delay_ms / 1000)
    return Result.measured(
        "step-overhead", options, metrics, samples, stages=STAGES, replicas=REPLICAS, run=_run_values(options)
    )


def _behind_a_line(options: Options, delay_ms: float) -> list[Event]:
    ways = {(LEADER, peer): Way(delay_ms=delay_ms) for peer in PEERS}
    network = Network({name: PeerLine() for name in (LEADER, *PEERS)}, ways)
    with emulated(network, options.seed) as emulator:
        return _events(options, emulator.sites)


def _step_seconds(events: list[Event]) -> list[float]:
    return [after["elapsed_s"] - before["elapsed_s"] for before, after in itertools.pairwise(events)]


def _events(options: Options, sites: Mapping[str, Site]) -> list[Event]:
    """The scheduler's word of every measured step."""
    with tempfile.TemporaryDirectory(prefix="swarm-step-overhead-") as folder:
        shards = write_random_shards(Path(folder) / "text", options.seed, 1, SHARD_CHARACTERS)
        fleet = Fleet(
            Path(folder) / "fleet",
            _run_values(options),
            shards,
            num_hosts=STAGES * REPLICAS,
            num_stages=STAGES,
            options={name: ("--host", site.address) for name, site in sites.items()},
            wrappers={name: site.wrapper for name, site in sites.items()},
        )
        with fleet:
            steps = range(SKIPPED_STEPS, SKIPPED_STEPS + options.steps + 1)
            return [fleet.wait_step(step, STEP_TIMEOUT_S) for step in steps]


def _run_values(options: Options) -> dict[str, Any]:
    return {
        "name": "step-overhead",
        "seed": options.seed,
        "model": byte_llama(num_layers=STAGES + 2, width=64, num_heads=4, mlp_width=128, context_tokens=CONTEXT_TOKENS),
        "data": {"context_tokens": CONTEXT_TOKENS},
        "batch": {"microbatch_sequences": SEQUENCES, "global_batch_microbatches": GLOBAL_BATCH},
        "schedule": {"steps": 10_000, "checkpoint_every_steps": 10_000},
    }
