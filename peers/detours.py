"""Ways between neighbours of a route that do not work, and for how long they are passed over. Pure.

    way      event                                  to
    fine     a hop on it failed, or may have        passed over for a while
    tried    the same again                         passed over for twice as long
    any      a microbatch came home by it           fine

Two peers that everybody else reaches may not reach each other. One that does not hear the other says nothing, so a
microbatch that is overdue puts every way of its route in doubt; those that work are cleared by others soon.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

_FIRST_S = 5.0
_LONGEST_S = 320.0

Way = frozenset[str]


def ways_of(owner: str, route: tuple[str, ...]) -> list[Way]:
    """From an owner through a route and home again."""
    return [frozenset(pair) for pair in itertools.pairwise((owner, *route, owner))]


@dataclass(slots=True)
class Detours:
    """Of one owner."""

    _failures: dict[Way, int] = field(default_factory=dict)
    _until_s: dict[Way, float] = field(default_factory=dict)

    def failed(self, ways: Iterable[Way], now_s: float) -> None:
        """Something did not come through; another failure while a way is passed over says nothing new."""
        for way in ways:
            if self._until_s.get(way, now_s) > now_s:
                continue
            failures = self._failures[way] = self._failures.get(way, 0) + 1
            self._until_s[way] = now_s + min(_LONGEST_S, _FIRST_S * 2 ** min(failures - 1, 16))

    def worked(self, ways: Iterable[Way]) -> None:
        """Something came through."""
        for way in ways:
            self._failures.pop(way, None)
            self._until_s.pop(way, None)

    def forget(self, peers: Collection[str]) -> None:
        """These are new here."""
        self.worked([way for way in self._failures if not way.isdisjoint(peers)])

    def avoided(self, now_s: float) -> frozenset[Way]:
        """To be passed over now."""
        return frozenset(way for way, until_s in self._until_s.items() if until_s > now_s)
