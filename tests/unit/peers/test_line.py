"""When a member measures its line anew, and when the new figure is told."""

from __future__ import annotations

import pytest

from peers.line import GLANCE_BYTES, LineWatch

FAST = 12.5e6


def test_two_slow_glances_in_a_row_are_a_reason_to_measure() -> None:
    watch = LineWatch(FAST)
    slow_s = GLANCE_BYTES / 250e3
    assert not watch.glance(slow_s)
    assert watch.is_doubted
    assert not watch.glance(GLANCE_BYTES / FAST)
    assert not watch.is_doubted
    assert not watch.glance(slow_s)
    assert watch.glance(slow_s)
    assert watch.measured(250e3)
    assert not watch.is_doubted
    assert not watch.glance(slow_s)


@pytest.mark.parametrize("duration_s", [0.001, 0.05, 0.2])
def test_short_glances_say_nothing_against_a_line(duration_s: float) -> None:
    watch = LineWatch(1e9)
    assert not any(watch.glance(duration_s) for _ in range(10))


def test_what_a_long_way_takes_anyway_says_nothing_against_a_line() -> None:
    watch = LineWatch(FAST, round_trip_s=0.1)
    assert not any(watch.glance(0.7) for _ in range(10))
    assert not watch.glance(1.1)
    assert watch.glance(1.1)


def test_a_line_that_training_shares_is_not_slow() -> None:
    watch = LineWatch(1e6)
    assert not any(watch.glance(1.0, moved_bytes=900_000) for _ in range(10))
    assert not watch.glance(1.0, moved_bytes=300_000)
    assert watch.glance(1.0, moved_bytes=300_000)


def test_a_line_that_is_fast_again_is_measured_too() -> None:
    watch = LineWatch(250e3)
    assert not watch.glance(GLANCE_BYTES / FAST)
    assert watch.glance(GLANCE_BYTES / FAST)
    assert watch.measured(FAST)


def test_a_measurement_that_is_about_the_same_changes_nothing() -> None:
    watch = LineWatch(1e6)
    assert not watch.measured(2.9e6)
    assert not watch.measured(0.4e6)
    assert watch.bytes_per_s == 1e6
