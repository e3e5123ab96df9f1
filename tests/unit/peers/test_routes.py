"""Routes: weights hold over time, preferred replicas come first, failed ones last, lost ones never."""

from __future__ import annotations

import heapq
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from peers.routes import Router
from tests.support.plans import plan


def _shares(weights: list[float], window: int, count: int) -> list[float]:
    """Shares of the microbatches, where each replica computes one after another at the rate of its weight."""
    names = [f"h{index}" for index in range(len(weights))]
    rates = dict(zip(names, weights, strict=True))
    router = Router(plan(names, weights=[weights]))
    sent: Counter[str] = Counter()
    free_at_s = dict.fromkeys(names, 0.0)
    on_the_way: list[tuple[float, tuple[str, ...]]] = []
    now_s = 0.0
    for _ in range(count):
        if len(on_the_way) == window:
            now_s, finished = heapq.heappop(on_the_way)
            router.release(finished)
        route = router.draw()
        assert route is not None
        (peer,) = route
        sent[peer] += 1
        free_at_s[peer] = max(free_at_s[peer], now_s) + 1 / rates[peer]
        heapq.heappush(on_the_way, (free_at_s[peer], route))
    return [sent[name] / count for name in names]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.5, 4), min_size=1, max_size=4), st.sampled_from([1, 2, 5, 64]))
def test_weights_hold_over_time(weights: list[float], window: int) -> None:
    shares = _shares(weights, window, count=2000)
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - weight / sum(weights)) < 0.03


def test_equal_replicas_take_turns_even_one_at_a_time() -> None:
    assert _shares([1.0, 1.0, 1.0], window=1, count=300) == [1 / 3] * 3


def test_a_replica_that_falls_behind_gets_less() -> None:
    router = Router(plan(["slow", "fast"]))
    sent: Counter[str] = Counter()
    for _ in range(20):
        route = router.draw()
        assert route is not None
        sent.update(route)
        if route == ("fast",):
            router.release(route)
    assert sent["slow"] < sent["fast"]


def test_an_earlier_attempts_replicas_are_preferred() -> None:
    router = Router(plan(["a", "b"], ["c", "d"]))
    for _ in range(10):
        assert router.draw(prefer=("b", "c")) == ("b", "c")


def test_a_replica_that_failed_is_avoided_even_if_preferred() -> None:
    router = Router(plan(["a", "b"], ["c", "d"]))
    for _ in range(10):
        assert router.draw(prefer=("a", "c"), avoid=("a",)) == ("b", "c")


def test_a_replica_that_failed_is_taken_where_there_is_no_other() -> None:
    router = Router(plan(["a"], ["c", "d"]))
    assert router.draw(avoid=("a", "c")) == ("a", "d")
    router.lost.add("d")
    assert router.draw(avoid=("c",)) == ("a", "c")


def test_a_lost_replica_is_never_taken() -> None:
    router = Router(plan(["a", "b"], ["c", "d"]), lost={"a"})
    for _ in range(10):
        route = router.draw(prefer=("a", "c"))
        assert route == ("b", "c")


def test_no_route_without_a_replica_in_every_stage() -> None:
    router = Router(plan(["a"], ["b"]), lost={"b"})
    assert router.draw() is None
    assert router._in_flight == {}


def test_the_choice_is_the_same_everywhere() -> None:
    routers = [Router(plan(["b", "a", "c"])) for _ in range(2)]
    assert [routers[0].draw() for _ in range(30)] == [routers[1].draw() for _ in range(30)]


def test_owners_do_not_all_begin_with_the_same_replica() -> None:
    names = [f"h{index}" for index in range(16)]
    first = {Router(plan(names), salt=f"o{owner}/3").draw() for owner in range(16)}
    assert len(first) > 8
