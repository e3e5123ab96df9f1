"""A relay's slots: who may have one, who may be called through it, how many, and for how long. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field

from swarm.wire.circuit import Verdict

SLOT_S = 60.0
"""How long a slot lasts that is not renewed."""


@dataclass(slots=True)
class Slots:
    """Of one relay.

    Args:
        most: members that may have a slot at once.
        most_streams: that may be open at once, of all members together.
        most_of_one: streams that a member may have open, and circuits that may lead to it.
    """

    most: int = 256
    most_streams: int = 1024
    most_of_one: int = 128
    _until_s: dict[str, float] = field(default_factory=dict)
    _streams: Counter[str] = field(default_factory=Counter)
    _called: Counter[str] = field(default_factory=Counter)

    def enter(self, peer: str, *, is_member: bool) -> bool:
        """Whether a stream of that peer is listened to at all; then `leave` follows."""
        if not is_member or self._streams.total() >= self.most_streams or self._streams[peer] >= self.most_of_one:
            return False
        self._streams[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        """A stream that entered is closed."""
        _less(self._streams, peer)

    def take(self, peer: str, now_s: float) -> Verdict:
        """Give a slot to a member, or renew it."""
        self._until_s = {each: until_s for each, until_s in self._until_s.items() if until_s > now_s}
        if peer not in self._until_s and len(self._until_s) >= self.most:
            return Verdict.RESERVATION_REFUSED
        self._until_s[peer] = now_s + SLOT_S
        return Verdict.OK

    def call(self, target: str, now_s: float) -> Verdict:
        """Whether a member may call another one now; where it may, `hang_up` follows."""
        if self._until_s.get(target, 0.0) <= now_s:
            return Verdict.NO_RESERVATION
        if self._called[target] >= self.most_of_one:
            return Verdict.RESOURCE_LIMIT_EXCEEDED
        self._called[target] += 1
        return Verdict.OK

    def hang_up(self, target: str) -> None:
        """A circuit to that member is over."""
        _less(self._called, target)

    def keep(self, members: Container[str]) -> None:
        """Take the slots of all others away."""
        self._until_s = {peer: until_s for peer, until_s in self._until_s.items() if peer in members}

    def holders(self, now_s: float) -> frozenset[str]:
        """Who has a slot."""
        return frozenset(peer for peer, until_s in self._until_s.items() if until_s > now_s)


def _less(counted: Counter[str], peer: str) -> None:
    counted[peer] -= 1
    if counted[peer] <= 0:
        del counted[peer]
