"""How close a swarm comes to its machine, beside one process, torch's 1F1B pipeline and a stateless relay.

25 million parameters on two cores and loopback, 8 microbatches of 4 windows a step, the same model, batches and
optimizer for all. The ideal is two processes of one thread that train the whole model each, side by side, and send
nothing. The swarm is one data owner and two hosts, a thread each, with the scheduler beside them: real processes, real
daemons; once with staleness 0 and once with staleness 1. Systems take turns; a ratio is the median over the turns of
what was measured in one and the same turn.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.baselines.torch_1f1b import RANKS
from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.statistics import summary
from benchmarks.workers.lines import Line, Worker, ask_all
from swarm.errors import ConfigError, RunError
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama

WIDTH, LAYERS, CONTEXT_TOKENS = 512, 8, 256
SEQUENCES, GLOBAL_BATCH = 4, 8
SPANS = ((1, 4), (4, 7))
"""Trunk layers of the relay's two servers; the swarm's planner finds the same."""
CORES = 2
SKIPPED_STEPS = 2
"""Of a fleet: windows fill, optimizers allocate."""
SHARD_CHARACTERS = 400_000
ANSWER_S = 600.0
RELAY_START_S, RELAY_STARTS = 90.0, 3
"""A relay's server takes about ten seconds."""
PRECISIONS = ("fp32", "bf16")
BASELINES = ("ideal", "torch_1f1b", "stateless_relay", "one_process")
SWARMS = {"swarm": 0, "swarm_staleness1": 1}
"""By name, with its staleness."""

QUICK = {"turns": 1, "steps": 2, "precision": "bf16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    turns: int = 3
    """How often every system is measured."""
    steps: int = 4
    """Measured optimizer steps of the swarm in a turn; baselines take one, after one to warm up."""
    precision: str = "both"
    """`fp32`, `bf16` or `both`."""


def run(options: Options) -> Result:
    """Measure every system in turns.

    Raises:
        ConfigError: an unknown precision.
        RunError: a process ended too early or does not answer.
    """
    if options.precision not in (*PRECISIONS, "both"):
        raise ConfigError(f"--precision is {options.precision!r}", "choose fp32, bf16 or both")
    metrics: dict[str, Any] = {}
    samples: dict[str, list[float]] = {}
    for precision in PRECISIONS if options.precision == "both" else (options.precision,):
        found = _measure(options, precision)
        suffix = "" if precision == "fp32" else f"_{precision}"
        for name, values in found.items():
            samples[f"{name}_tokens_per_s{suffix}"] = values
            metrics[f"{name}_tokens_per_s{suffix}"] = summary(values)
        for name, ours in itertools.product(BASELINES, SWARMS):
            ratios = [a / b for a, b in zip(found[ours], found[name], strict=True)]
            metrics[f"swarm_over_{name}{ours.removeprefix('swarm')}{suffix}"] = statistics.median(ratios)
    return Result.measured(
        "throughput",
        options,
        metrics,
        samples,
        run_fp32=run_values(options, "fp32"),
        run_bf16=run_values(options, "bf16"),
    )


def run_values(options: Options, precision: str) -> dict[str, Any]:
    """A run.toml's values."""
    return {
        "name": "throughput",
        "seed": options.seed,
        "model": byte_llama(num_layers=LAYERS, width=WIDTH, num_heads=8, mlp_width=1376, context_tokens=CONTEXT_TOKENS),
        "data": {"context_tokens": CONTEXT_TOKENS},
        "batch": {"microbatch_sequences": SEQUENCES, "global_batch_microbatches": GLOBAL_BATCH},
        "optimizer": {"max_grad_norm": 0.0},
        "numerics": {"precision": precision, "boundary_codec": precision},
        # One more than are measured: the last one has nothing after it that could run ahead.
        "schedule": {"steps": SKIPPED_STEPS + options.steps + 1, "checkpoint_every_steps": 1_000_000},
    }


def _measure(options: Options, precision: str) -> dict[str, list[float]]:
    """Tokens a second of every system, one a turn."""
    found: dict[str, list[float]] = {}
    values = run_values(options, precision)
    with contextlib.ExitStack() as stack, Progress(transient=True) as progress:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swarm-throughput-")))
        systems: dict[str, Callable[[], float]] = {
            name: stack.enter_context(started)
            for name, started in {
                "ideal": _ideal(values, options.seed, folder),
                "one_process": _one_process(values, options.seed, folder),
                "torch_1f1b": _torch_1f1b(values, options.seed, folder),
                "stateless_relay": _stateless_relay(values, options.seed, folder),
            }.items()
        }
        for name, staleness in SWARMS.items():
            schedule = values["schedule"] | {"staleness": staleness}
            systems[name] = functools.partial(_swarm, values | {"schedule": schedule}, options, folder)
        task = progress.add_task(precision, total=options.turns * len(systems))
        for turn in range(options.turns):
            for name, measure in systems.items():
                progress.update(task, description=f"{precision}, turn {turn + 1}: {name}")
                found.setdefault(name, []).append(measure())
                progress.advance(task)
    return found


# --- baselines ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _workers(folder: Path, name: str, arguments: Sequence[Sequence[str]], threads: int = 1) -> Iterator[list[Worker]]:
    """Processes of one baseline."""
    errors = Path(tempfile.mkdtemp(dir=folder, prefix=f"{name}-"))
    workers = [
        Worker(
            f"benchmarks.baselines.{name}",
            given,
            {"OMP_NUM_THREADS": str(threads)},
            errors / f"{number}.stderr",
        )
        for number, given in enumerate(arguments)
    ]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.close()


def _rate(workers: Sequence[Worker]) -> list[float]:
    """Tokens a second of each, in one step after one to warm up: it woke from a long sleep."""
    line: Line = {"do": "steps", "count": 1}
    ask_all(workers, line, ANSWER_S)
    return [answer["tokens"] / answer["seconds"] for answer in ask_all(workers, line, ANSWER_S)]


@contextlib.contextmanager
def _ideal(values: Line, seed: int, folder: Path) -> Iterator[Callable[[], float]]:
    with _workers(folder, "one_process", [()] * CORES) as workers:
        ask_all(workers, {"do": "start", "values": values, "threads": 1, "seed": seed}, ANSWER_S)
        yield lambda: sum(_rate(workers))


@contextlib.contextmanager
def _one_process(values: Line, seed: int, folder: Path) -> Iterator[Callable[[], float]]:
    with _workers(folder, "one_process", [()], CORES) as workers:
        ask_all(workers, {"do": "start", "values": values, "threads": CORES, "seed": seed}, ANSWER_S)
        yield lambda: sum(_rate(workers))


@contextlib.contextmanager
def _torch_1f1b(values: Line, seed: int, folder: Path) -> Iterator[Callable[[], float]]:
    with _workers(folder, "torch_1f1b", [()] * RANKS) as workers:
        start: Line = {"do": "start", "values": values, "rendezvous": str(folder / "rendezvous"), "seed": seed}
        for rank, worker in enumerate(workers):
            worker.tell({**start, "rank": rank})
        deadline_s = time.monotonic() + ANSWER_S
        for worker in workers:
            worker.hear(start, deadline_s)
        yield lambda: min(_rate(workers))


@contextlib.contextmanager
def _stateless_relay(values: Line, seed: int, folder: Path) -> Iterator[Callable[[], float]]:
    with contextlib.ExitStack() as stack:
        addresses: list[str] = []
        for span in SPANS:
            start: Line = {"do": "start", "values": values, "span": span, "peers": addresses}
            addresses = [*addresses, *_relay_server(stack, folder, start)]
        (client,) = stack.enter_context(_workers(folder, "stateless_relay", [("relay",)]))
        client.ask({"do": "start", "values": values, "spans": SPANS, "peers": addresses, "seed": seed}, ANSWER_S)
        yield lambda: _rate([client])[0]


def _relay_server(stack: contextlib.ExitStack, folder: Path, start: Line) -> list[str]:
    """Addresses of a new one.

    Its library forks while threads run, and now and then a lock stays shut in the child: then another process is tried.
    """
    for _ in range(RELAY_STARTS):
        with contextlib.ExitStack() as attempt, contextlib.suppress(RunError):
            (server,) = attempt.enter_context(_workers(folder, "stateless_relay", [("serve",)]))
            addresses: list[str] = server.ask(start, RELAY_START_S)["addresses"]
            stack.enter_context(attempt.pop_all())
            return addresses
    raise RunError("the stateless relay's server does not start", "run benchmarks.baselines.stateless_relay by hand")


# --- the swarm ---------------------------------------------------------------------------------------------------


def _swarm(values: Line, options: Options, parent: Path) -> float:
    """Tokens a second of a new fleet, from commit to commit."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    shards = write_random_shards(folder / "text", options.seed, 1, SHARD_CHARACTERS)
    with Fleet(folder / "fleet", values, shards, len(SPANS), len(SPANS)) as fleet:
        first = fleet.wait_step(SKIPPED_STEPS, ANSWER_S)
        last = fleet.wait_step(SKIPPED_STEPS + options.steps, ANSWER_S)
        fleet.wait_finished(ANSWER_S)
    tokens = options.steps * GLOBAL_BATCH * SEQUENCES * CONTEXT_TOKENS
    return tokens / float(last["elapsed_s"] - first["elapsed_s"])
