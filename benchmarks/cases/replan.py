"""Replanning: how fast is it, and what does a swarm keep of its bound while peers come and go.

`events`: one join or leave at a time in a swarm of `peers`; `p99_ms` is of the whole decision. `churn`: `churn_peers`
peers, 32 stages, mixed speeds, 5 h lives, every state 150 s of loading, in virtual time: throughput of the slowest
stage over the speed of all live peers divided by stages, averaged over time after the first hour. A peer that loads or
switches stages serves nobody; a switch to a stage of which it has a copy takes 5 s. `_by_line`: each peer's load time
follows its own line, 150 s on average. `serving_while_loading`: movers go on with their old stage meanwhile, as in the
production swarm.

Ceilings in the same trace, without copies: of a swarm that is level at any time, but learns of a death when it happens
(an estimate), and of one that knows all deaths beforehand (proven).

References in the same trace: joins at random, joins at the weakest stage, SWARM's rule every 300 s, and up to two
moves an event whenever the planned balance gets better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.churn.history import Books, History
from benchmarks.churn.policies import Follower, Naive, Random, Rebalancing, Weakest
from benchmarks.churn.population import Churn, Trace, ceilings, longest_first, trace
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from scheduler.planner.evaluator import host_rates
from scheduler.planner.instance import Assignment
from scheduler.planner.intake import hosts_of
from scheduler.planner.moves import Decision, Policy
from scheduler.planner.replan import Replanner

NUM_STAGES = 32
LOAD_S, LIFE_S = 150.0, 18_000.0
PLAIN_BYTES_RATIO = 2.0
"""Of gradients in 8 bits; the figures above assume more."""

QUICK = {"peers": 1000, "hours": 2.0, "events": 100}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    peers: int = 10_000
    """In the swarm whose events are timed."""
    events: int = 2000
    """Timed there, joins and leaves, about."""
    churn_peers: int = 400
    """In the swarm under churn, on average."""
    hours: float = 16.0
    """Of virtual time under churn; the first is a warm-up."""


class _Ours(Replanner):
    """Moves at events only."""

    def tick(self) -> Decision:
        return Decision()


def run(options: Options) -> Result:
    """Play all traces, in this process, on one core."""
    timed = _timed(options)
    event_ms = [1e3 * seconds for seconds in timed.event_s]
    metrics: dict[str, Any] = {
        "p50_ms": float(np.quantile(event_ms, 0.5)),
        "p99_ms": float(np.quantile(event_ms, 0.99)),
        "max_ms": max(event_ms),
        "timed_events": len(event_ms),
        "max_moves": timed.most_moves,
    }
    for suffix, lines_differ in (("", False), ("_by_line", True)):
        churn = Churn(
            num_peers=options.churn_peers,
            mean_life_s=LIFE_S,
            load_s=LOAD_S,
            lines_differ=lines_differ,
            hours=options.hours,
            seed=options.seed,
        )
        metrics |= {name + suffix: value for name, value in _churn(churn).items()}
        if not lines_differ:
            drawn = trace(churn)
            level, clairvoyant = ceilings(drawn, churn, _rates(drawn, NUM_STAGES), _warm_up_s(churn))
            metrics["churn_fraction_of_a_level_swarm_without_shadows"] = level
            metrics["churn_fraction_of_a_clairvoyant_swarm_without_shadows"] = clairvoyant
    return Result.measured("replan", options, metrics, {"event_ms": event_ms}, policy=str(_policy(400)))


def _policy(num_peers: int, copy_cover: float = 1.0, *, serves_while_loading: bool = False) -> Policy:
    return Policy(
        # What a leave took from a stage, the next join brings back: it comes, and it loads.
        horizon_s=LIFE_S / num_peers + LOAD_S,
        mean_life_s=LIFE_S,
        serves_while_loading=serves_while_loading,
        copy_cover=copy_cover,
    )


def _timed(options: Options) -> Books:
    hours = options.events / 2 * LIFE_S / options.peers / 3600
    churn = Churn(num_peers=options.peers, mean_life_s=LIFE_S, load_s=LOAD_S, hours=hours, seed=options.seed)
    drawn = trace(churn)
    start = longest_first(drawn.instance, NUM_STAGES)
    return _play(drawn, start, _Ours(drawn.instance, start, _policy(options.peers)), churn, 0.0)


def _churn(churn: Churn) -> dict[str, Any]:
    drawn = trace(churn)
    start = longest_first(drawn.instance, NUM_STAGES)

    def played(follower: Follower) -> Books:
        return _play(drawn, start, follower, churn, _warm_up_s(churn))

    without = played(_Ours(drawn.instance, start, _policy(churn.num_peers, 0.0)))
    copies = played(_Ours(drawn.instance, start, _policy(churn.num_peers)))
    going_on = {
        suffix: played(_Ours(drawn.instance, start, _policy(churn.num_peers, cover, serves_while_loading=True)))
        for suffix, cover in (("", 0.0), ("_with_shadows", 1.0))
    }
    found = {
        "churn_fraction_of_bound": without.fraction_of_bound,
        "churn_fraction_with_shadows": copies.fraction_of_bound,
        **{
            f"churn_fraction_serving_while_loading{suffix}": books.fraction_of_bound
            for suffix, books in going_on.items()
        },
        "migration_share_of_uplink": _share(without),
        "migration_share_of_uplink_with_shadows": _share(copies),
        "migration_share_of_uplink_with_shadows_8bit": _share(copies, drawn),
        "migrations": without.num_moves,
        "migrations_with_shadows": copies.num_moves,
        "switches_with_shadows": copies.num_switches,
        "max_moves_under_churn": max(without.most_moves, copies.most_moves),
        "empty_stage_s": without.empty_s + copies.empty_s,
    }
    for name, kind in {"random": Random, "weakest": Weakest, "swarm_300s": Rebalancing, "naive": Naive}.items():
        books = played(kind(drawn.instance, start, churn.seed))
        found[f"churn_fraction_{name}"] = books.fraction_of_bound
        found[f"migrations_{name}"] = books.num_moves
    return found


def _warm_up_s(churn: Churn) -> float:
    return min(3600.0, churn.hours * 1800)


def _play(drawn: Trace, start: Assignment, follower: Follower, churn: Churn, warm_up_s: float) -> Books:
    stages = dict(zip(drawn.instance.hosts.names, start.stage.tolist(), strict=True))
    return History(drawn, follower, stages, _rates(drawn, NUM_STAGES), warm_up_s).run(churn.hours * 3600)


def _rates(drawn: Trace, num_stages: int) -> dict[str, float]:
    hosts, _ = hosts_of(list(drawn.claims.values()))
    rows = np.arange(len(hosts.names), dtype=np.int64)
    layers = np.full(len(rows), drawn.instance.work.num_layers // num_stages)
    rates = host_rates(replace(drawn.instance, hosts=hosts), rows, layers)
    return dict(zip(hosts.names, rates.tolist(), strict=True))


def _share(books: Books, plain: Trace | None = None) -> float:
    """Of all live uplinks: fetched states, copies, and what keeps those current; the last also in plain 8 bits."""
    more = plain.instance.work.gradient_ratio / PLAIN_BYTES_RATIO if plain else 1.0
    return (books.moved_bytes + books.copied_bytes + more * books.upkeep_bytes) / books.up_bytes
