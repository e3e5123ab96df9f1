"""Whom a member obeys: one leader a term, and never an earlier term again. Pure.

obeys        event                                                    to
nobody       a claim                                                  that scheduler
a leader     a claim of a higher term by the same scheduler           that term
a leader     a claim of a higher term, and the leader does not lead   the other scheduler
a leader     a claim of a higher term, and the leader answers         stays
anybody      a claim of a lower or equal term by somebody else        stays
anybody      a claim by somebody who knows an older plan              stays
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Answer(enum.Enum):
    """What a claim gets."""

    GRANT = "grant"
    DENY = "deny"
    ASK = "ask the leader first"


@dataclass(slots=True)
class Allegiance:
    """What a member has granted.

    Args:
        term: the highest so far; 0 before the first.
        leader: to whom.
    """

    term: int = 0
    leader: str = ""

    def answer(self, candidate: str, term: int, *, knows_plan: bool, leader_lives: bool | None = None) -> Answer:
        """Judge a claim; nothing changes yet.

        Args:
            knows_plan: whether the candidate knows a plan as new as ours: who voted on an older one may be too few.
            leader_lives: whether our leader said just now that it leads; None where it was not asked.
        """
        if not knows_plan or term < self.term:
            return Answer.DENY
        if candidate == self.leader:
            return Answer.GRANT  # also said twice
        if term == self.term:
            return Answer.DENY
        if not self.leader:
            return Answer.GRANT
        if leader_lives is None:
            return Answer.ASK
        return Answer.DENY if leader_lives else Answer.GRANT

    def grant(self, candidate: str, term: int) -> bool:
        """Obey from now on; whether that is somebody or something new."""
        is_new = (term, candidate) != (self.term, self.leader)
        self.term, self.leader = term, candidate
        return is_new

    def heeds(self, sender: str, term: int) -> bool:
        """Whether an order may be carried out."""
        return (term, sender) == (self.term, self.leader)
