"""Who is here, in the scheduler's eyes. Pure.

state      event                              to
unknown    its record is in the directory     ANNOUNCED, if it was admitted and measured everything
ANNOUNCED  it granted our term                MEMBER
MEMBER     it wants to go home                LEAVING: no plan counts on it any more
LEAVING    a step was committed without it    ANNOUNCED
MEMBER     it cannot be reached               ANNOUNCED; asked again after a while that doubles with every loss
MEMBER     it announces another line          MEMBER, planned anew
ANNOUNCED  it announces no role: it is paused  UNKNOWN, until it announces one again
MEMBER     our term is over                   ANNOUNCED
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from swarm.wire.messages import Capabilities

FIRST_ABSENCE_S = 5.0
"""A member that was lost may return after so long; after twice as long when it is lost again."""
_LONGEST_ABSENCE_S = 320.0
_REMEMBERED_S = 600.0
"""A host that was lost is a reason so long to expect that another will be."""


@dataclass(slots=True)
class Roster:
    """Everybody who announced what they measured, and who of them obeys us."""

    _announced: dict[str, Capabilities] = field(default_factory=dict)
    _members: dict[str, Capabilities] = field(default_factory=dict)
    _leaving: set[str] = field(default_factory=set)
    _absence_s: dict[str, float] = field(default_factory=dict)
    _back_at_s: dict[str, float] = field(default_factory=dict)
    _host_lost_at_s: float = -math.inf

    def announce(self, peer: str, admitted: tuple[str, ...], capabilities: Capabilities) -> bool:
        """Take in what a peer measured; False where it claims what it was not admitted for, or measured too little."""
        if not capabilities.roles:
            self._announced.pop(peer, None)  # it is paused: nobody asks it
            return False
        if not set(capabilities.roles) <= set(admitted):
            return False
        if not _is_measured(capabilities):
            return False
        self._announced[peer] = capabilities
        return True

    def forget_absent(self, present: Collection[str]) -> None:
        """Records that expired are of peers that are gone."""
        self._announced = {peer: facts for peer, facts in self._announced.items() if peer in present}

    def enlist(self, peer: str) -> Capabilities | None:
        """A peer granted our term; what it measured, or None where it has not announced itself."""
        facts = self._announced.get(peer)
        if facts is not None:
            self._members[peer] = facts
        return facts

    def dismiss_all(self) -> None:
        """Our term is over."""
        self._members.clear()
        self._leaving.clear()
        self._back_at_s.clear()

    def to_be_asked(self, now_s: float) -> list[str]:
        """Peers that may become members, sorted."""
        return sorted(
            peer
            for peer in self._announced
            if peer not in self._members and self._back_at_s.get(peer, -math.inf) <= now_s
        )

    def rerate(self, peer: str, layer_s: float) -> Capabilities | None:
        """A host turned out to be faster or slower; its figures now, or None where it is not here."""
        facts = self._members.get(peer)
        if facts is not None:
            facts = self._members[peer] = replace(facts, layer_seconds=layer_s)
        return facts

    def relined(self) -> dict[str, Capabilities]:
        """Members that announce another line than before, with what they are believed to be now."""
        changed = {}
        for peer, facts in self._members.items():
            said = self._announced.get(peer, facts)
            lines = said.up_bytes_per_s, said.down_bytes_per_s
            if lines != (facts.up_bytes_per_s, facts.down_bytes_per_s):
                changed[peer] = replace(facts, up_bytes_per_s=lines[0], down_bytes_per_s=lines[1])
        self._members |= changed
        return changed

    def lose(self, peer: str, now_s: float, least_s: float = 0.0) -> None:
        """A member is gone, or has to go; its record in the directory outlives it.

        Args:
            least_s: how long it stays away in any case.
        """
        facts = self._members.pop(peer, None)
        if facts is not None and "host" in facts.roles:
            self._host_lost_at_s = now_s
        self._leaving.discard(peer)
        absence_s = min(_LONGEST_ABSENCE_S, max(least_s, 2 * self._absence_s.get(peer, FIRST_ABSENCE_S / 2)))
        self._absence_s[peer] = absence_s
        self._back_at_s[peer] = now_s + absence_s

    def loses_hosts(self, now_s: float) -> bool:
        """Whether a host was lost lately, in this term or one before."""
        return now_s - self._host_lost_at_s < _REMEMBERED_S

    def let_go(self, peer: str, now_s: float) -> None:
        """A member leaves in order; where it comes back, it may soon."""
        self._members.pop(peer, None)
        self._leaving.discard(peer)
        self._back_at_s[peer] = now_s + FIRST_ABSENCE_S

    def leaves(self, peer: str) -> None:
        """A member wants to go home."""
        if peer in self._members:
            self._leaving.add(peer)

    @property
    def leaving(self) -> frozenset[str]:
        """Members that want to go home."""
        return frozenset(self._leaving)

    @property
    def announced(self) -> dict[str, Capabilities]:
        """Everybody who is in the directory."""
        return self._announced

    @property
    def members(self) -> dict[str, Capabilities]:
        """Everybody who obeys us."""
        return self._members

    @property
    def hosts(self) -> dict[str, Capabilities]:
        """Members that host and stay, in a fixed order."""
        return self._with("host")

    @property
    def owners(self) -> dict[str, Capabilities]:
        """Members that own data and stay, in a fixed order."""
        return self._with("owner")

    def _stays(self, peer: str, role: str) -> bool:
        return peer not in self._leaving and role in self._members[peer].roles

    def _with(self, role: str) -> dict[str, Capabilities]:
        return {peer: found for peer, found in sorted(self._members.items()) if self._stays(peer, role)}


def _is_measured(facts: Capabilities) -> bool:
    """Whether every figure is there that a plan needs."""
    needed = [facts.up_bytes_per_s, facts.down_bytes_per_s]
    if "host" in facts.roles:
        needed += [facts.layer_seconds, facts.layer_bytes, facts.graph_bytes]
    if "owner" in facts.roles:
        needed.append(facts.ends_seconds)
    return min(needed) > 0
