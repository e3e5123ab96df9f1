"""A paced line: never more than allowed in any stretch of time, and never less than that while something waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.net.pace import Pace

RATE = 1000.0
SAVED_BYTES = 100.0
"""What an idle line may make up for."""


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 2)), min_size=1, max_size=60))
def test_no_stretch_of_time_carries_more_than_its_share(takes: list[tuple[int, float]]) -> None:
    pace, now_s = Pace(RATE), 0.0
    sent: list[tuple[float, int]] = []
    for num_bytes, idle_s in takes:
        now_s += idle_s
        now_s += pace.wait_s(num_bytes, now_s)
        sent.append((now_s, num_bytes))
    for first, (from_s, _) in enumerate(sent):
        for last in range(first, len(sent)):
            # Whatever began within a stretch: its last piece may only have begun.
            carried = sum(num_bytes for _, num_bytes in sent[first:last])
            assert carried <= RATE * (sent[last][0] - from_s) + SAVED_BYTES + 1e-6


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.floats(0, 0.05))
def test_who_always_has_something_to_send_uses_the_whole_rate(sizes: list[int], late_s: float) -> None:
    pace, now_s = Pace(RATE), 0.0
    for num_bytes in sizes:
        wait_s = pace.wait_s(num_bytes, now_s)
        now_s += wait_s + (late_s if wait_s else 0.0)
    assert now_s <= sum(sizes[:-1]) / RATE + late_s + 1e-6


def test_without_a_limit_nothing_waits_and_another_limit_counts_at_once() -> None:
    pace = Pace()
    assert pace.wait_s(10**9, 0.0) == 0.0
    pace.bytes_per_s = RATE
    assert pace.wait_s(2000, 0.0) == 0.0
    assert pace.wait_s(1, 0.0) == pytest.approx(2.0)
    pace.bytes_per_s = 0.0
    assert pace.wait_s(1, 0.0) == 0.0
