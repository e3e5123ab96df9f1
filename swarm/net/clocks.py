"""How far this machine's clock is off: certificates, invites and directory records end by the wall clock. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from swarm.errors import ClockOff

MOST_OFF_S = 3.0
"""hivemind's directory refuses whoever is further off than this."""
_REMEDY = "set whichever of the two is wrong, best by a time server"


@dataclass(frozen=True, slots=True)
class Gap:
    """Between our clock and a peer's.

    Attributes:
        ahead_s: that our clock is ahead of the peer's, as far as one question can tell.
        error_s: the true figure is at most this far from it: half of the time that the answer took.
    """

    peer: str
    ahead_s: float
    error_s: float

    @property
    def is_off(self) -> bool:
        """Whether the two clocks are provably too far apart."""
        return abs(self.ahead_s) - self.error_s > MOST_OFF_S

    @property
    def problem(self) -> str:
        """For people."""
        way = "ahead of" if self.ahead_s > 0 else "behind"
        return f"this machine's clock is {abs(self.ahead_s):,.1f} s {way} the clock of {self.peer}"


def gap(peer: str, asked_at_s: float, said_s: float, answered_at_s: float) -> Gap:
    """Of a question and its answer; all times in seconds since 1970, the first and last by our clock.

    Source: Cristian's algorithm.
    """
    return Gap(peer, (asked_at_s + answered_at_s) / 2 - said_s, abs(answered_at_s - asked_at_s) / 2)


def check_gaps(gaps: Collection[Gap]) -> None:
    """Refuse our own clock where everybody who was asked contradicts it; nothing happens where nobody was.

    Raises:
        ClockOff: by how much.
    """
    if gaps and all(each.is_off for each in gaps):
        raise ClockOff(min(gaps, key=lambda each: each.error_s).problem, _REMEDY)
