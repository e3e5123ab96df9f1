"""Gaps between clocks: what one question can tell, and who is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ClockOff
from swarm.net.clocks import MOST_OFF_S, check_gaps, gap

SECONDS = st.floats(-1e5, 1e5)
DELAYS = st.floats(0, 100)


@given(ahead_s=SECONDS, there_s=DELAYS, back_s=DELAYS)
def test_the_true_gap_is_within_the_error(ahead_s: float, there_s: float, back_s: float) -> None:
    """However unequal the two ways are, and however busy the machines."""
    asked_at_s = 1e9
    said_s = asked_at_s - ahead_s + there_s
    found = gap("p", asked_at_s, said_s, asked_at_s + there_s + back_s)
    assert abs(found.ahead_s - ahead_s) <= found.error_s + 1e-5
    if abs(ahead_s) <= MOST_OFF_S:
        assert not found.is_off


def test_one_that_agrees_is_enough() -> None:
    ahead, right = gap("a", 3610.0, 10.0, 3610.2), gap("b", 10.0, 10.1, 10.2)
    check_gaps([ahead, right])
    check_gaps([])
    with pytest.raises(ClockOff, match=r"clock is 3,600\.1 s ahead of the clock of a"):
        check_gaps([ahead])


def test_the_surest_of_several_is_told() -> None:
    vague, sure = gap("vague", 0.0, 95.0, 10.0), gap("sure", 0.0, 100.0, 0.0)
    with pytest.raises(ClockOff, match=r"100\.0 s behind the clock of sure"):
        check_gaps([vague, sure])
