"""Deadlines learn from what was measured (RFC 6298)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.net.deadlines import FIRST_S, FLOOR_S, Deadline


def test_before_anything_was_measured() -> None:
    assert Deadline().seconds == FIRST_S
    assert Deadline(first_s=3.0).seconds == 3.0


def test_never_below_the_floor() -> None:
    deadline = Deadline()
    for _ in range(20):
        deadline.observe(0.001)
    assert deadline.seconds == FLOOR_S


def test_the_first_measurement_counts_its_half_as_deviation() -> None:
    deadline = Deadline(floor_s=0.0)
    deadline.observe(2.0)
    assert deadline.seconds == pytest.approx(4 * (2.0 + 4 * 1.0))


def test_the_second_is_smoothed() -> None:
    deadline = Deadline(floor_s=0.0)
    deadline.observe(2.0)
    deadline.observe(4.0)
    deviation_s = 1.0 + (2.0 - 1.0) / 4
    assert deadline.seconds == pytest.approx(4 * (2.25 + 4 * deviation_s))


@given(st.floats(0.01, 1e4))
def test_steady_answers_end_at_four_times_the_mean(duration_s: float) -> None:
    deadline = Deadline(floor_s=0.0)
    for _ in range(60):
        deadline.observe(duration_s)
    assert deadline.seconds == pytest.approx(4 * duration_s, rel=1e-3)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_a_deadline_covers_the_mean_and_stays_finite(durations_s: list[float]) -> None:
    deadline = Deadline(floor_s=0.0)
    for duration_s in durations_s:
        deadline.observe(duration_s)
    assert 4 * min(durations_s) <= deadline.seconds * (1 + 1e-9)
    assert deadline.seconds <= 4 * 5 * max(durations_s) * (1 + 1e-9)


def test_slower_answers_wait_longer() -> None:
    deadline = Deadline()
    for _ in range(10):
        deadline.observe(1.0)
    before_s = deadline.seconds
    deadline.observe(30.0)
    assert deadline.seconds > before_s
