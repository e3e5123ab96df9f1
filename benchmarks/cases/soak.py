"""Hours of coming and going must leave nothing behind: memory, descriptors, threads, lost work.

Real processes on this machine. Hosts join with fresh identities and leave in order, one after the other, while a few
residents stay: the scheduler, data owners and the first hosts, whose memory, descriptors and threads, and those of
their network daemons, are sampled all the while. Computing is emulated, so that what is measured is the swarm's own. At
the end the audit log is checked, and one process replays it up to the last checkpoint.
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.progress import Progress

from benchmarks.cases import chaos
from benchmarks.chaos.checker import check
from benchmarks.chaos.history import read_folders, union
from benchmarks.chaos.replaying import compare, newest_of
from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from scheduler.run_dir import RunDir
from swarm.errors import RunError
from swarm.local.fleet import Fleet, Program

WARMUP_STEPS = 5
SHARD_CHARACTERS = 400_000
LIMIT_S = 300.0
_LOOK_S = 0.2
MIB = 1 << 20

QUICK = {"minutes": 2.0, "turnovers_an_hour": 60}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    minutes: float = 60.0
    """Of coming and going."""
    turnovers_an_hour: int = 60
    """Hosts that join, and as many that leave."""
    residents: int = 2
    """Hosts that stay."""
    guests: int = 2
    """Hosts that are there beside them, and leave one after the other."""
    stages: int = 2
    """Of the trunk."""
    owners: int = 1
    """They stay, too."""
    layer_s: float = 0.02
    """Emulated, of one layer and one microbatch."""
    folder: str = ""
    """Keeps run, state and logs; it must be new. Without it they are not kept."""


@dataclass(slots=True)
class Vitals:
    """What the processes that stay took, sample by sample: memory, descriptors and threads, by process."""

    at_s: list[float] = field(default_factory=list)
    rss_mib: dict[str, list[float]] = field(default_factory=dict)
    descriptors: dict[str, list[float]] = field(default_factory=dict)
    threads: dict[str, list[float]] = field(default_factory=dict)

    def sample(self, programs: dict[str, Program]) -> None:
        """Look at every program and its daemon now."""
        self.at_s.append(time.monotonic())
        for name, program in programs.items():
            process = psutil.Process(program.process.pid)
            for label, each in ((name, process), *((f"{name}'s daemon", child) for child in process.children())):
                self.rss_mib.setdefault(label, []).append(each.memory_info().rss / MIB)
                self.descriptors.setdefault(label, []).append(float(each.num_fds()))
                self.threads.setdefault(label, []).append(float(each.num_threads()))


@dataclass(slots=True)
class Books:
    """Who came and went."""

    joined: int = 0
    served: int = 0
    left: int = 0
    exits: list[int] = field(default_factory=list)
    join_s: list[float] = field(default_factory=list)
    leave_s: list[float] = field(default_factory=list)


def run(options: Options) -> Result:
    """Let hosts come and go, then look at what is left.

    Raises:
        RunError: a process that should stay ended.
        DeadlineExceeded: the swarm does not start.
    """
    folder = Path(options.folder or tempfile.mkdtemp(prefix="swarm-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    shards = write_random_shards(folder / "text", options.seed, options.owners, SHARD_CHARACTERS)
    values = run_values(options)
    num_hosts = options.residents + options.guests
    most_hosts = num_hosts + int(options.minutes * options.turnovers_an_hour / 60) + 2
    device = ["--device", f"emulated:{options.layer_s}"]
    arguments = {f"host-{number}": device for number in range(most_hosts)}
    vitals, books = Vitals(), Books()
    with Fleet(folder / "fleet", values, shards, num_hosts, options.stages, options=arguments) as fleet:
        first = int(fleet.wait_step(WARMUP_STEPS, LIMIT_S)["step"])
        _turn_over(fleet, options, vitals, books)
        last = _newest_step(fleet)
        fleet.scheduler.wait_for("checkpoint", lambda event: event["step"] >= last, LIMIT_S)
        history = union(read_folders([fleet.run_dir])[0])
        owners = {fleet.peer_id(f"owner-{number}"): shard for number, shard in enumerate(shards)}
    findings = check(history, chaos.GLOBAL_BATCH)
    reader = newest_of([RunDir(fleet.run_dir).checkpoints])
    compared = compare(reader, history.steps, RunDir(fleet.run_dir).load_config(), owners, folder / "reference")
    metrics: dict[str, Any] = {
        "minutes": options.minutes,
        "steps": last - first,
        "joined": books.joined,
        "served": books.served,
        "left": books.left,
        "left_with_another_status_than_0": sum(status != 0 for status in books.exits),
        "join_to_serving_s_median": statistics.median(books.join_s) if books.join_s else 0.0,
        "leaving_s_median": statistics.median(books.leave_s) if books.leave_s else 0.0,
        "max_weight_rel_diff": compared.max_weight_rel_diff,
        "checkpoint_step": compared.step,
    }
    metrics |= {name: value for name, value in asdict(findings).items() if name != "examples"}
    metrics |= growth("rss_mib", vitals.rss_mib) | growth("descriptors", vitals.descriptors)
    metrics |= growth("threads", vitals.threads)
    samples = {f"rss_mib: {name}": values for name, values in vitals.rss_mib.items()}
    samples |= {f"descriptors: {name}": values for name, values in vitals.descriptors.items()}
    samples |= {"join_to_serving_s": books.join_s, "leaving_s": books.leave_s}
    return Result.measured("soak", options, metrics, samples, run=values)


def run_values(options: Options) -> dict[str, Any]:
    """The run.toml: that of `chaos`."""
    return chaos.run_values(chaos.Options(seed=options.seed)) | {"name": "soak"}


def growth(name: str, samples: dict[str, list[float]]) -> dict[str, Any]:
    """From the second quarter's median to the last one's: the first quarter fills caches and pools.

    Returns:
        By process, and the most.
    """
    found = {label: _quarter(values, 3) - _quarter(values, 1) for label, values in samples.items()}
    return {f"{name}_growth": found, f"{name}_growth_max": max(found.values(), default=0.0)}


def _quarter(values: Sequence[float], number: int) -> float:
    size = max(1, len(values) // 4)
    return statistics.median(values[number * size : (number + 1) * size] or values[-size:])


def _newest_step(fleet: Fleet) -> int:
    return max(int(event["step"]) for event in tuple(fleet.scheduler.events) if event.get("event") == "step")


def _turn_over(fleet: Fleet, options: Options, vitals: Vitals, books: Books) -> None:
    """One host comes, and when it serves the oldest guest leaves; then the rest of the interval passes."""
    names = ["scheduler", *(f"owner-{number}" for number in range(options.owners))]
    names += [f"host-{number}" for number in range(options.residents)]
    staying = {name: fleet.programs[name] for name in names}
    guests = [f"host-{options.residents + number}" for number in range(options.guests)]
    invite = Path(fleet.scheduler.wait_for("listening")["invites"]["host"])
    interval_s = 3600 / options.turnovers_an_hour
    number_of = options.residents + options.guests
    next_s = time.monotonic()
    until_s = next_s + 60 * options.minutes

    def look(is_done: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for something, sampling once in ten seconds."""
        while not is_done():
            ended = [name for name, program in staying.items() if program.process.poll() is not None]
            if ended:
                raise RunError(f"{ended[0]} ended: {staying[ended[0]].last_words}", f"see {fleet.folder / 'logs'}")
            if not vitals.at_s or time.monotonic() - vitals.at_s[-1] > 10.0:
                vitals.sample(staying)
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_LOOK_S)
        return True

    with Progress(transient=True) as progress:
        task = progress.add_task("turnovers", total=options.minutes * options.turnovers_an_hour / 60)
        while next_s < until_s:
            next_s += interval_s
            name = f"host-{number_of + books.joined}"
            started_s = time.monotonic()
            guest = fleet.join(name, invite)
            books.joined += 1
            guests.append(name)
            if look(partial(_serves, fleet, guest), next_s + interval_s):
                books.served += 1
                books.join_s.append(time.monotonic() - started_s)
            _leave(fleet, guests.pop(0), books, look)
            look(lambda: False, next_s)
            progress.advance(task)


def _serves(fleet: Fleet, guest: Program) -> bool:
    """Whether a plan that holds has it."""
    joined = next((event for event in tuple(guest.events) if event.get("event") == "joined"), None)
    if joined is None:
        return False
    plans = [event for event in tuple(fleet.scheduler.events) if event.get("event") == "plan"]
    return any(joined["peer"] in stage["replicas"] for stage in plans[-1]["stages"])


def _leave(fleet: Fleet, name: str, books: Books, look: Callable[[Callable[[], bool], float], bool]) -> None:
    """In order: it works on until a step was committed without it."""
    program = fleet.programs[name]
    asked_s = time.monotonic()
    program.process.send_signal(signal.SIGTERM)
    look(lambda: program.process.poll() is not None, asked_s + LIMIT_S)
    books.exits.append(program.stop())
    books.left += 1
    books.leave_s.append(time.monotonic() - asked_s)
    fleet.scheduler.companions.remove(program)  # what it ended with is in the books
