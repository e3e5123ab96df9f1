"""Which fault strikes when: a pure function of the seed. Whom it strikes is chosen from those who are there then."""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """What can be done to a process."""

    KILL_HOST = "kill_host"
    KILL_OWNER = "kill_owner"
    KILL_LEADER = "kill_leader"
    FREEZE_HOST = "freeze_host"
    FREEZE_OWNER = "freeze_owner"
    FREEZE_LEADER = "freeze_leader"
    CUT_HOST = "cut_host"
    CUT_OWNER = "cut_owner"

    @property
    def is_kill(self) -> bool:
        """SIGKILL; the process is started again afterwards."""
        return self in KILLS

    @property
    def is_cut(self) -> bool:
        """The peer's line is down; the process runs."""
        return self in CUTS


KILLS = frozenset({Kind.KILL_HOST, Kind.KILL_OWNER, Kind.KILL_LEADER})
CUTS = frozenset({Kind.CUT_HOST, Kind.CUT_OWNER})

WEIGHTS: Mapping[Kind, int] = {
    Kind.KILL_HOST: 4,
    Kind.KILL_OWNER: 2,
    Kind.KILL_LEADER: 2,
    Kind.FREEZE_HOST: 2,
    Kind.FREEZE_OWNER: 1,
    Kind.FREEZE_LEADER: 1,
    Kind.CUT_HOST: 2,
    Kind.CUT_OWNER: 1,
}
"""How often each kind comes, in every so many faults."""

MOST_GAP_S = 20.0
LEAST_GAP_S = 8.0
_RESTART_S = (2.0, 6.0)
_FREEZE_S = (3.0, 30.0)
_CUT_S = (5.0, 30.0)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault.

    Attributes:
        at_s: since the faults began.
        choice: from 0 to 1, picks the victim from those whom it can strike at that moment.
        lasts_s: until the killed process is started again, the frozen one goes on, or the line is up again.
    """

    number: int
    at_s: float
    kind: Kind
    choice: float
    lasts_s: float


def draw(seed: int, duration_s: float, kinds: Sequence[Kind], most_gap_s: float = MOST_GAP_S) -> list[PlannedFault]:
    """A schedule: the same for the same arguments.

    Args:
        duration_s: no fault comes later.
        kinds: those that are possible in this rig.
        most_gap_s: between two faults, and before the first.

    Raises:
        ValueError: no kind is possible.
    """
    if not kinds:
        raise ValueError("no kind of fault is possible")
    source = random.Random(f"chaos-{seed}")
    faults: list[PlannedFault] = []
    deck = _decks(source, kinds)
    at_s = 0.0
    while True:
        at_s += source.uniform(min(LEAST_GAP_S, most_gap_s / 2), most_gap_s)
        if at_s > duration_s:
            return faults
        kind = next(deck)
        lasts_s = source.uniform(*_span_s(kind))
        faults.append(PlannedFault(len(faults), at_s, kind, source.random(), lasts_s))


def _decks(source: random.Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    """Shuffled decks, so that a short run sees each kind about as often as a long one."""
    while True:
        deck = [kind for kind in Kind if kind in kinds for _ in range(WEIGHTS[kind])]
        source.shuffle(deck)
        yield from deck


def _span_s(kind: Kind) -> tuple[float, float]:
    if kind.is_kill:
        return _RESTART_S
    return _CUT_S if kind.is_cut else _FREEZE_S


def pick(choice: float, candidates: Sequence[str]) -> str:
    """The candidate that a planned fault strikes; empty where there is none."""
    return candidates[min(int(choice * len(candidates)), len(candidates) - 1)] if candidates else ""


def fallbacks(kind: Kind) -> list[Kind]:
    """What is done instead, in this order, where a kind finds nobody to strike."""
    return [other for other in (Kind.KILL_HOST, Kind.FREEZE_HOST, Kind.FREEZE_OWNER) if other is not kind]
