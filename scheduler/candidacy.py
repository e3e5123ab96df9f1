"""An election: a scheduler leads a term when a majority of the last plan's members granted it. Pure.

state    event                                              to
any      somebody knows a newer plan, or a higher term      STALE (begin again with those)
OPEN     more than half of the voters granted               WON
OPEN     so many denied or did not answer that it cannot    LOST

A scheduler that others cannot replace needs no votes; one that they can never wins without knowing who votes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from swarm.plan import Plan
from swarm.wire.messages import Denied, Granted, Holding


class Outcome(enum.Enum):
    """How it stands."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"
    STALE = "stale"


def voters_of(plan: Plan | None) -> frozenset[str]:
    """Whose grants count: every member of a plan; nobody's before the first."""
    return frozenset() if plan is None else frozenset(peer for group in plan.groups for peer in group)


def is_majority(present: frozenset[str] | set[str], voters: frozenset[str]) -> bool:
    """Whether no others of the voters can be a majority, too."""
    return 2 * len(voters & present) > len(voters)


@dataclass(slots=True)
class Candidacy:
    """One attempt at one term.

    Args:
        term: that it is for.
        plan_number: of the newest plan that the candidate knows.
        voters: its members; None for a scheduler that needs no votes.
    """

    term: int
    plan_number: int
    voters: frozenset[str] | None
    holdings: dict[str, tuple[Holding, ...]] = field(default_factory=dict)
    _told_paused: set[str] = field(default_factory=set)
    newest_term: int = 0
    living_leader: tuple[str, int] | None = None
    """That members obey, and that answers them; and its term."""
    _against: set[str] = field(default_factory=set)
    _has_old_plan: bool = False
    _has_old_term: bool = False

    def granted(self, peer: str, reply: Granted) -> None:
        """A member obeys us."""
        if reply.term == self.term:
            self.holdings[peer] = reply.holdings
            self._against.discard(peer)
            if reply.run_is_paused:
                self._told_paused.add(peer)

    def denied(self, peer: str, reply: Denied, plan_number: int) -> None:
        """A member does not.

        Args:
            plan_number: of the plan in its reply; 0 for none.
        """
        self._against.add(peer)
        self.newest_term = max(self.newest_term, reply.term)
        self._has_old_term |= reply.term >= self.term
        self._has_old_plan |= plan_number > self.plan_number
        if reply.leader_lives and (self.living_leader is None or reply.term > self.living_leader[1]):
            self.living_leader = reply.leader, reply.term

    def silent(self, peer: str) -> None:
        """A member cannot be reached."""
        self._against.add(peer)

    @property
    def run_is_paused(self) -> bool:
        """Whether another scheduler paused the run: more than half of those who obey us were told so."""
        return 2 * len(self._told_paused) > len(self.holdings)

    @property
    def may_claim_at_once(self) -> bool:
        """It failed for a plan that is known now, and nobody leads: no other candidate is in the way."""
        return self._has_old_plan and not self._has_old_term and self.living_leader is None

    @property
    def outcome(self) -> Outcome:
        """How it stands."""
        if self._has_old_term or self._has_old_plan:
            return Outcome.STALE
        if self.voters is None:
            return Outcome.WON
        if is_majority(set(self.holdings), self.voters):
            return Outcome.WON
        return Outcome.OPEN if is_majority(self.voters - self._against, self.voters) else Outcome.LOST
