"""Churn in virtual time: traces by seed, books that add up."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.cases.replan import _Ours, _rates
from benchmarks.churn.history import Books, History
from benchmarks.churn.policies import Naive, Random, Rebalancing, Weakest
from benchmarks.churn.population import Churn, Trace, ceilings, longest_first, trace
from scheduler.planner.moves import Policy

SMALL = Churn(num_peers=256, hours=2.0, seed=3)
STAGES = 32


def played(drawn: Trace, kind: type, hours: float, **policy: Any) -> Books:
    start = longest_first(drawn.instance, STAGES)
    follower = kind(drawn.instance, start, Policy(**policy) if kind is _Ours else 1)
    stages = dict(zip(drawn.instance.hosts.names, start.stage.tolist(), strict=True))
    return History(drawn, follower, stages, _rates(drawn, STAGES), 600.0).run(hours * 3600)


def test_a_trace_is_a_steady_state_and_repeats() -> None:
    first, second = trace(SMALL), trace(SMALL)
    assert first.happenings == second.happenings
    assert first.claims == second.claims
    joins = sum(each.is_join for each in first.happenings)
    leaves = len(first.happenings) - joins
    # 256 peers live 5 h on average: 102 of each in two hours.
    assert joins == pytest.approx(102, abs=35)
    assert leaves == pytest.approx(102, abs=35)
    assert trace(Churn(num_peers=256, hours=2.0, seed=4)).happenings != first.happenings


def test_without_churn_nothing_is_lost() -> None:
    drawn = trace(Churn(num_peers=256, hours=0.5, mean_life_s=1e12))
    books = played(drawn, _Ours, 0.5)
    assert books.num_moves == 0
    # Unequal speeds do not divide into 32 equal stages.
    assert 0.95 < books.fraction_of_bound <= 1


def test_rules_rank_as_they_should() -> None:
    drawn = trace(SMALL)
    reached = {
        kind: played(drawn, kind, SMALL.hours).fraction_of_bound for kind in (Random, Weakest, Rebalancing, Naive)
    }
    without = played(drawn, _Ours, SMALL.hours, horizon_s=220.0)
    copies = played(drawn, _Ours, SMALL.hours, horizon_s=220.0, copy_cover=1.0)
    level, clairvoyant = ceilings(drawn, SMALL, _rates(drawn, STAGES), 600.0)
    assert max(without.fraction_of_bound, *reached.values()) < level < clairvoyant < 1
    assert copies.fraction_of_bound < clairvoyant
    assert reached[Random] < reached[Weakest]
    assert copies.fraction_of_bound > max(without.fraction_of_bound, *reached.values())
    assert max(without.most_moves, copies.most_moves) <= 2
    assert without.num_switches == without.num_copies == 0
    assert copies.num_switches > 0
    assert copies.upkeep_bytes > 0
    assert without.upkeep_bytes == 0


def test_switches_and_slow_moves_do_not_undo_each_other() -> None:
    drawn = trace(SMALL)
    books = played(drawn, _Ours, SMALL.hours, horizon_s=220.0, copy_cover=0.5, serves_while_loading=True)
    # Once they did: twenty moves an event.
    assert books.num_switches < books.num_moves < 6 * len(drawn.happenings)
