"""What a microbatch costs leader and hosts as the swarm grows, with real peers; and ten thousand simulated ones.

Emulated hosts, eight of them in a process, each with a daemon, a key and a compute thread of its own; eight owners and
the scheduler in processes of their own. Everything but the layers' arithmetic is real. All of them share the machine's
cores, so the swarm's own pace says little: what counts is the processor time that a microbatch costs the leader (its
event loop's thread, which is all that is serial in a swarm) and a host. Replanning runs on another thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.simulator import scenario
from benchmarks.simulator.run import simulate
from swarm.errors import ConfigError
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama

STAGES = 4
HOSTS_A_PROCESS = 8
CONTEXT_TOKENS = 32
LAYER_S = 0.001
SHARD_CHARACTERS = 60_000
SKIPPED_STEPS = 2
SIMULATED_BATCH = 1
"""Microbatches of a step, a host."""
SIMULATED_STEPS = 1
START_S = 600.0
STEP_S = 600.0

QUICK = {"hosts": "8", "owners": 2, "steps": 2, "microbatches": 32, "simulated": 100}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    hosts: str = "8,16,32,64"
    """Sizes, with commas; each a multiple of 8."""
    owners: int = 8
    """A process each."""
    steps: int = 3
    """Measured optimizer steps of each size."""
    microbatches: int = 256
    """Of a step."""
    simulated: int = 10_000
    """Hosts in the simulator; 0 leaves it out."""


@dataclass(frozen=True, slots=True)
class Point:
    """One size.

    Attributes:
        microbatches_per_s: by the clock, all processes on this machine's cores.
        leader_ms_per_microbatch: processor time of the leader's event loop.
        daemon_ms_per_microbatch: of the leader's network daemon.
        host_ms_per_hop: processor time of the hosts' processes without their daemons, for each forward and backward of
            a microbatch through one stage.
        ready_s: from starting the first process to the first committed step.
    """

    hosts: int
    microbatches_per_s: float
    leader_ms_per_microbatch: float
    daemon_ms_per_microbatch: float
    host_ms_per_hop: float
    ready_s: float


def run(options: Options) -> Result:
    """Measure every size, then simulate.

    Raises:
        ConfigError: sizes that are no multiples of 8.
        RunError: a process ended too early.
    """
    points = [_measure(options, hosts) for hosts in _sizes(options)]
    costs = [point.leader_ms_per_microbatch for point in points]
    metrics: dict[str, Any] = {
        "points": [asdict(point) for point in points],
        "leader_microbatches_per_s": 1000 / costs[-1],
        "leader_cost_largest_over_smallest": costs[-1] / costs[0],
        "host_cost_largest_over_smallest": points[-1].host_ms_per_hop / points[0].host_ms_per_hop,
    }
    if options.simulated:
        metrics["simulated"] = _simulated(options)
    return Result.measured("scale", options, metrics, {}, stages=STAGES, layer_s=LAYER_S, run=_run_values(options))


def _sizes(options: Options) -> list[int]:
    try:
        sizes = sorted(int(size) for size in options.hosts.split(","))
    except ValueError:
        sizes = []
    if not sizes or any(size <= 0 or size % HOSTS_A_PROCESS for size in sizes):
        raise ConfigError(f"--hosts is {options.hosts!r}", f"write multiples of {HOSTS_A_PROCESS} with commas")
    return sizes


def _measure(options: Options, hosts: int) -> Point:
    began_s = time.monotonic()
    with _fleet(options, hosts) as fleet:
        fleet.wait_step(1, START_S)
        ready_s = time.monotonic() - began_s
        first = fleet.wait_step(SKIPPED_STEPS, STEP_S)
        before = _Spent.by(fleet)
        last = fleet.wait_step(SKIPPED_STEPS + options.steps, options.steps * STEP_S)
        spent = _Spent.by(fleet).since(before)
    num = options.steps * options.microbatches
    return Point(
        hosts=hosts,
        microbatches_per_s=num / (last["elapsed_s"] - first["elapsed_s"]),
        leader_ms_per_microbatch=1000 * spent.leader_s / num,
        daemon_ms_per_microbatch=1000 * spent.daemon_s / num,
        host_ms_per_hop=1000 * spent.hosts_s / (num * STAGES),
        ready_s=ready_s,
    )


@contextmanager
def _fleet(options: Options, hosts: int) -> Iterator[Fleet]:
    programs = [f"host-{number}" for number in range(hosts // HOSTS_A_PROCESS)]
    many = ("--count", str(HOSTS_A_PROCESS), "--device", f"emulated:{LAYER_S}")
    with tempfile.TemporaryDirectory(prefix="swarm-scale-") as folder:
        fleet = Fleet(
            Path(folder) / "fleet",
            _run_values(options),
            write_random_shards(Path(folder) / "text", options.seed, options.owners, SHARD_CHARACTERS),
            num_hosts=len(programs),
            num_stages=STAGES,
            options={**dict.fromkeys(programs, many), "scheduler": ("--hosts", str(hosts))},
            commands=dict.fromkeys(programs, ("-m", "benchmarks.workers.many_hosts")),
        )
        with fleet:
            yield fleet


@dataclass(frozen=True, slots=True)
class _Spent:
    """Processor seconds so far."""

    leader_s: float
    daemon_s: float
    hosts_s: float

    @classmethod
    def by(cls, fleet: Fleet) -> _Spent:
        """Everybody, now."""
        leader = psutil.Process(fleet.scheduler.process.pid)
        loop = next(thread for thread in leader.threads() if thread.id == leader.pid)
        hosts = [program.process.pid for name, program in fleet.programs.items() if name.startswith("host-")]
        return cls(loop.user_time + loop.system_time, _seconds(leader.children()), _seconds(map(psutil.Process, hosts)))

    def since(self, before: _Spent) -> _Spent:
        """What was spent between."""
        return _Spent(self.leader_s - before.leader_s, self.daemon_s - before.daemon_s, self.hosts_s - before.hosts_s)


def _seconds(processes: Iterable[psutil.Process]) -> float:
    spent = [process.cpu_times() for process in processes]
    return float(sum(times.user + times.system for times in spent))


def _simulated(options: Options) -> dict[str, float]:
    """Ten thousand hosts that run the production state machines in virtual time."""
    began_s = time.process_time()
    instance = scenario.of_family("mixed", options.simulated, options.seed)
    work = replace(instance.work, global_batch=SIMULATED_BATCH * options.simulated)
    planned = scenario.planned(replace(instance, work=work), SIMULATED_STEPS, 0.05)
    planned_s = time.process_time() - began_s
    report = simulate(planned.config, None)
    return {
        "hosts": options.simulated,
        "stages": len(planned.config.plan.stages),
        "tokens_per_s": report.tokens_per_s,
        "predicted_tokens_per_s": planned.predicted.tokens_per_s,
        "planning_cpu_s": planned_s,
        "cpu_s": time.process_time() - began_s - planned_s,
        "microbatches": report.microbatches,
    }


def _run_values(options: Options) -> dict[str, Any]:
    return {
        "name": "scale",
        "seed": options.seed,
        "model": byte_llama(num_layers=STAGES + 2, width=32, num_heads=2, mlp_width=64, context_tokens=CONTEXT_TOKENS),
        "data": {"context_tokens": CONTEXT_TOKENS},
        "batch": {"microbatch_sequences": 1, "global_batch_microbatches": options.microbatches},
        "schedule": {"steps": 10_000, "checkpoint_every_steps": 10_000},
    }
