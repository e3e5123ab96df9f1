"""The strict all-reduce beside hivemind's own: are they ever wrong, and how long do they take.

Three processes with a daemon each, on loopback; both runners in alternating rounds over the same tensors. A round is
wrong when it succeeded and some member's result is not the exact weighted mean to rounding, or, of the strict runner,
when two members' results differ in a bit. A round's time is the slowest member's: preparing, and going.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.statistics import summary
from benchmarks.workers.lines import Line, Worker, ask_all
from swarm.errors import RunError

WEIGHTS = (4096.0, 1024.0, 2560.0)
"""Tokens a member; there are as many members."""
SHAPES = [(512, 512), (512,)] * 6
"""Like a small decoder's gradients: matrices of two parts each, and vectors; 1.58 million values."""
TOLERANCE = 1e-5
"""Values are about 5 in size; a lost part is off by about 1."""
WARMUP_ROUNDS = 3
ANSWER_TIMEOUT_S = 90.0

QUICK = {"rounds": 20}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    rounds: int = 1000
    """Rounds of each runner."""


@dataclass(slots=True)
class Tally:
    """What one runner's rounds came to."""

    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    bit_equal: bool = True

    def count(self, prepared: Sequence[dict[str, Any]], gone: Sequence[dict[str, Any]], strict: bool) -> None:
        """Enter one round, from all members' answers."""
        failures = [answer["failed"] for answer in gone if "failed" in answer]
        if failures:
            self.failed.append(failures[0])
            return
        equal = len({answer["digest"] for answer in gone}) == 1
        self.bit_equal &= equal
        self.errors.append(max(answer["error"] for answer in gone))
        self.wrong += self.errors[-1] > TOLERANCE or (strict and not equal)
        self.seconds.append(max(answer["seconds"] for answer in prepared) + max(answer["seconds"] for answer in gone))


def run(options: Options) -> Result:
    """Run both runners' rounds in alternation.

    Raises:
        RunError: a member's process died or hung.
    """
    tallies = _measure(options)
    strict, stock = tallies["strict"], tallies["stock"]
    if not strict.seconds or not stock.seconds:
        raise RunError("one of the runners finished no round at all", f"see {(strict.failed + stock.failed)[:1]}")
    ours, theirs = summary(strict.seconds), summary(stock.seconds)
    metrics = {
        "rounds": options.rounds,
        "wrong_rounds": strict.wrong,
        "failed_rounds": len(strict.failed),
        "largest_error": max(strict.errors),
        "replicas_bit_equal": strict.bit_equal,
        "seconds_per_round": ours["median"],
        "stock_rounds": options.rounds,
        "stock_wrong_rounds": stock.wrong,
        "stock_failed_rounds": len(stock.failed),
        "stock_largest_error": max(stock.errors),
        "stock_replicas_bit_equal": stock.bit_equal,
        "stock_seconds_per_round": theirs["median"],
        "ratio": ours["median"] / theirs["median"],
        "spread": ours,
        "stock_spread": theirs,
        "failures": sorted(set(strict.failed + stock.failed)),
    }
    return Result.measured(
        "allreduce",
        options,
        metrics,
        {
            "seconds_per_round": strict.seconds,
            "stock_seconds_per_round": stock.seconds,
            "error": strict.errors,
            "stock_error": stock.errors,
        },
        warmup_rounds=WARMUP_ROUNDS,
        members=len(WEIGHTS),
        weights=WEIGHTS,
        num_values=sum(torch.Size(shape).numel() for shape in SHAPES),
        worker_torch_threads=1,
    )


def _measure(options: Options) -> dict[str, Tally]:
    with contextlib.ExitStack() as stack:
        workers = [Worker("benchmarks.workers.allreduce_member") for _ in WEIGHTS]
        for worker in workers:
            stack.callback(worker.close)
        ids = _start(workers, options.seed)
        tallies = {"strict": Tally(), "stock": Tally()}
        progress = stack.enter_context(Progress(transient=True))
        task = progress.add_task("rounds", total=options.rounds)
        for number in range(WARMUP_ROUNDS + options.rounds):
            for runner, tally in tallies.items():
                prepared, gone = _round(workers, runner, number, ids)
                if number >= WARMUP_ROUNDS:
                    tally.count(prepared, gone, strict=runner == "strict")
            shown = f"rounds (wrong: strict {tallies['strict'].wrong}, stock {tallies['stock'].wrong})"
            progress.update(task, completed=number - WARMUP_ROUNDS + 1, description=shown)
        return tallies


def _round(workers: Sequence[Worker], runner: str, number: int, ids: list[str]) -> tuple[list[Line], list[Line]]:
    line = {"runner": runner, "round": number}
    prepared = ask_all(workers, {**line, "do": "prepare", "ids": ids}, ANSWER_TIMEOUT_S)
    gone = ask_all(workers, {**line, "do": "go"}, ANSWER_TIMEOUT_S)
    if runner == "stock":
        ask_all(workers, {**line, "do": "forget"}, ANSWER_TIMEOUT_S)
    return prepared, gone


def _start(workers: Sequence[Worker], seed: int) -> list[str]:
    """Start the members one after the other, each connecting to all before it; return their ids."""
    ids: list[str] = []
    addresses: list[str] = []
    for member, worker in enumerate(workers):
        line = {"do": "start", "member": member, "weights": WEIGHTS, "shapes": SHAPES, "seed": seed, "peers": addresses}
        answer = worker.ask(line, ANSWER_TIMEOUT_S)
        ids.append(answer["peer_id"])
        addresses = [*addresses, *answer["addresses"]]
    return ids
