"""Members are rated by what they deliver, within two windows, and not by one bad one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from peers.routes import Router
from scheduler.rating import TOLERANCE, WINDOW_MICROBATCHES, Rating
from swarm.plan import Plan
from tests.support.plans import plan

PLAN = plan(["a", "b"], ["c"])
CLAIMED_S = 0.1


def rating() -> Rating:
    rated = Rating()
    for peer in "abc":
        rated.claim(peer, CLAIMED_S)
    return rated


def window(share_of_a: float) -> list[tuple[str, ...]]:
    count = 2 * WINDOW_MICROBATCHES
    return [("a" if number < share_of_a * count else "b", "c") for number in range(count)]


def windows(rated: Rating, routes: Iterable[list[tuple[str, ...]]], held: Plan = PLAN) -> list[dict[str, float]]:
    return [rated.counted(held, each) for each in routes]


def test_as_measured_is_left_alone() -> None:
    assert windows(rating(), [window(0.5)] * 6) == [{}] * 6


def test_a_replica_that_falls_short_is_rated_within_two_windows() -> None:
    first, second = windows(rating(), [window(0.2)] * 2)
    assert first == {}
    assert list(second) == ["a"]
    assert second["a"] > 1.5 * CLAIMED_S


def test_one_bad_window_changes_nothing() -> None:
    assert windows(rating(), [window(0.2), window(0.5)] * 4) == [{}] * 8


def test_a_window_takes_as_many_steps_as_it_needs() -> None:
    rated, found = rating(), {}
    for number, route in enumerate(itertools.chain(window(0.2), window(0.2)), start=1):
        found = rated.counted(PLAN, [route])
        assert not found or number == 4 * WINDOW_MICROBATCHES
    assert "a" in found


@pytest.mark.parametrize("told_s", [CLAIMED_S * 3, CLAIMED_S / 3])
def test_the_worse_witness_counts_for_one_that_falls_short(told_s: float) -> None:
    rated = rating()
    rated.tell("b", told_s)
    _, found = windows(rated, [window(0.9)] * 2)
    assert found["b"] >= max(told_s, TOLERANCE * CLAIMED_S)


def test_a_member_that_is_faster_than_it_measured_and_delivers_is_believed() -> None:
    rated = rating()
    rated.tell("c", CLAIMED_S / 2)
    # Its share is what its weight asked for, so only its own word can tell.
    assert windows(rated, [window(0.5)] * 2) == [{}, {"c": CLAIMED_S / 2}]


def test_another_plan_begins_another_window() -> None:
    rated = rating()
    rated.counted(PLAN, window(0.2)[:-1])
    assert rated.counted(plan(["a", "b"], ["c"], number=2), window(0.2)[-1:]) == {}


def test_a_router_with_a_slow_replica_gives_the_evidence() -> None:
    """The production router, four microbatches in flight, and a replica that takes four times as long as it said."""
    rated, took = rating(), {"a": 4, "b": 1, "c": 1}
    found: dict[str, float] = {}
    for _ in range(4):
        router, routes, now = Router(PLAN), [], 0
        in_flight: list[tuple[int, tuple[str, ...]]] = []
        free_at = dict.fromkeys(took, 0)
        while len(routes) < 2 * WINDOW_MICROBATCHES:
            while len(in_flight) < 4:
                route = router.draw()
                assert route is not None
                for peer in route:
                    free_at[peer] = max(free_at[peer], now) + took[peer]
                in_flight.append((max(free_at[peer] for peer in route), route))
            now, done = min(in_flight)
            in_flight.remove((now, done))
            router.release(done)
            routes.append(done)
        found |= rated.counted(PLAN, routes)
    assert list(found) == ["a"]
