"""How near all-reduces and state transfers come to what thin, long lines allow.

Processes with a daemon each, in network namespaces of their own, joined by the emulated network (root only), without
any training beside them. An all-reduce is held against the closed form G max(1, 2 (n - 1) / n) / B + 2 l: G bytes of a
member's gradient as sent, n members with lines of B bytes a second, l the delay of one way. A transfer is held against
the receiver's line; TCP's headers take 3.5 % of it. The emulator is checked over plain TCP first.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.wan.emulator import Emulator, emulated
from benchmarks.wan.wires import Network, PeerLine, Way
from benchmarks.workers.lines import Worker, ask_all
from swarm.errors import ConfigError, RunError
from swarm.identity import Identity

CODEC, BYTES_A_VALUE = "fp16", 2
PARTS = tuple(f"model-{number:05d}" for number in range(8))
ANSWER_S = 240.0

QUICK = {"members": "3", "mbit": 20.0, "delay_ms": 10.0, "seconds": 2.0, "rounds": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    members: str = "3,5,8"
    """Sizes of the groups."""
    mbit: float = 100.0
    """Of every line, up and down."""
    delay_ms: float = 50.0
    """One way, between any two."""
    seconds: float = 8.0
    """That a line needs for a gradient, and for a state."""
    rounds: int = 3
    """Of every size, after one that warms the lines up."""


def run(options: Options) -> Result:
    """Measure every size of group.

    Raises:
        ConfigError: not root, or sizes that are no numbers.
        RunError: a process does not answer, or members disagree.
    """
    try:
        sizes = [int(each) for each in options.members.split(",")]
    except ValueError:
        raise ConfigError("--members is a list of numbers", "write 3,5,8") from None
    if min(sizes) < 3:
        raise ConfigError("--members has a group of fewer than 3", "two members give a state to a third")
    groups: list[dict[str, Any]] = []
    samples: dict[str, list[float]] = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("groups", total=len(sizes))
        for size in sizes:
            progress.update(task, description=f"{size} members")
            found, seconds = _measure(size, options)
            groups.append(found)
            samples |= {f"{name}, {size} members": values for name, values in seconds.items()}
            progress.advance(task)
    metrics = {
        "groups": groups,
        "worst_allreduce_over_closed_form": max(group["allreduce_over_closed_form"] for group in groups),
        "least_transfer_over_line": min(
            group[name] for group in groups for name in group if name.startswith("transfer_over_line")
        ),
    }
    return Result.measured("links", options, metrics, samples, codec=CODEC)


def closed_form_s(gradient_bytes: float, members: int, bytes_per_s: float, delay_s: float) -> float:
    """Of an all-reduce among equal lines, without computing."""
    return gradient_bytes * max(1.0, 2 * (members - 1) / members) / bytes_per_s + 2 * delay_s


def _measure(size: int, options: Options) -> tuple[dict[str, Any], dict[str, list[float]]]:
    line_bytes_per_s = options.mbit * 1e6 / 8
    num_bytes = int(line_bytes_per_s * options.seconds)
    with _members(size, options) as (emulator, workers, ids):
        delay_ms, mbit = emulator.measured("peer-0", "peer-1", options.mbit)
        reduced_s = _reduce(workers, ids, num_bytes // BYTES_A_VALUE, options.rounds)
        fetched_s = {num_donors: _fetch(workers, ids, num_bytes, num_donors, options) for num_donors in (1, 2)}
    closed_s = closed_form_s(num_bytes, size, line_bytes_per_s, options.delay_ms / 1000)
    found = {
        "members": size,
        "gradient_bytes": num_bytes,
        "allreduce_s": statistics.median(reduced_s),
        "closed_form_s": closed_s,
        "allreduce_over_closed_form": statistics.median(reduced_s) / closed_s,
        "emulated_mbit": mbit,
        "emulated_delay_ms": delay_ms,
    }
    for num_donors, seconds in fetched_s.items():
        found[f"transfer_over_line_{num_donors}_donors"] = num_bytes / statistics.median(seconds) / line_bytes_per_s
    return found, {"allreduce_s": reduced_s} | {f"transfer_s {each} donors": s for each, s in fetched_s.items()}


@contextlib.contextmanager
def _members(size: int, options: Options) -> Iterator[tuple[Emulator, list[Worker], list[str]]]:
    names = [f"peer-{number}" for number in range(size)]
    line = PeerLine(up_mbit=options.mbit, down_mbit=options.mbit)
    network = Network(dict.fromkeys(names, line), default=Way(delay_ms=options.delay_ms))
    with contextlib.ExitStack() as stack:
        emulator = stack.enter_context(emulated(network, options.seed))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarm-links-")))
        Identity.generate().save(folder / "admin")
        workers: list[Worker] = []
        ids: list[str] = []
        addresses: list[str] = []
        for name in names:
            worker = Worker("benchmarks.workers.link_member", wrapper=emulator.sites[name].wrapper)
            stack.callback(worker.close)
            start = {"do": "start", "address": emulator.sites[name].address, "folder": str(folder)}
            told = worker.ask(start | {"admin": str(folder / "admin"), "peers": addresses}, ANSWER_S)
            workers.append(worker)
            ids.append(told["peer_id"])
            addresses = [*addresses, *told["addresses"]]
        yield emulator, workers, ids


def _reduce(workers: list[Worker], ids: list[str], num_values: int, rounds: int) -> list[float]:
    """The slowest member's time of every round."""
    seconds: list[float] = []
    for number in range(rounds + 1):
        line = {"round": f"round-{number}", "ids": ids, "values": num_values, "codec": CODEC}
        ask_all(workers, line | {"do": "prepare"}, ANSWER_S)
        answers = ask_all(workers, line | {"do": "go"}, ANSWER_S)
        if len({answer["digest"] for answer in answers}) != 1:
            raise RunError("members of an all-reduce disagree", "report this as a bug")
        seconds.append(max(answer["seconds"] for answer in answers))
    return seconds[1:]


def _fetch(workers: list[Worker], ids: list[str], num_bytes: int, num_donors: int, options: Options) -> list[float]:
    """The first peers have a state, the last one gets it."""
    for worker in workers[:num_donors]:
        worker.ask({"do": "offer", "bytes": num_bytes, "parts": PARTS, "seed": options.seed}, ANSWER_S)
    line = {"do": "fetch", "donors": ids[:num_donors], "parts": PARTS, "most_bytes": num_bytes}
    answers = [workers[-1].ask(line, ANSWER_S) for _ in range(options.rounds + 1)]
    return [answer["seconds"] for answer in answers[1:]]
