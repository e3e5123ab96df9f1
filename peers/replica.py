"""One replica of one group (a trunk stage, or the owners' ends): what it may count, prepare and apply.

    state     event                                   to        the shell does
    OPEN      backward of a lease not yet counted      OPEN      compute and count
    OPEN      backward of a counted lease              OPEN      compute the input's gradient only
    OPEN      CloseStep, books agree                   CLOSED    retract what the ledger gave to others, prepare
    OPEN      CloseStep, something missing             OPEN      retract, report what is missing
    CLOSED    GoRound of the prepared round            REDUCING  reduce
    REDUCING  the round yields the average             REDUCED   keep the average
    CLOSED.. REDUCED  ReopenStep or a newer CloseStep  OPEN      drop what was prepared or averaged
    REDUCED   CommitStep of that round                 OPEN + 1  apply, count from zero

Frames of a later step or plan wait; those of an earlier one are stale. Nothing here knows a tensor or a clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from swarm.wire.messages import CloseStep, CommitStep, GoRound, Lease, ReopenStep, Work


class State(enum.Enum):
    """Where the replica is in its step."""

    OPEN = "open"
    CLOSED = "closed"
    REDUCING = "reducing"
    REDUCED = "reduced"


class Verdict(enum.Enum):
    """What to do with a frame."""

    COMPUTE = "compute"
    COUNT = "count"
    ANSWER = "answer"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Closing:
    """The books against the ledger.

    Attributes:
        retract: counted here, but the ledger gave them to another replica or lease.
        missing: the ledger's, but not counted here.
    """

    retract: tuple[Lease, ...]
    missing: tuple[Lease, ...]


@dataclass(slots=True)
class Replica:
    """The books and the life cycle of one replica.

    Args:
        stage: group number.
        plan: number of the plan it was built for.
        step: the step whose microbatches it counts; also the number of steps its weights have seen.
    """

    stage: int
    plan: int
    step: int
    state: State = State.OPEN
    term: int = 0
    round: int = 0
    refused: int = 0
    _counted: set[Lease] = field(default_factory=set)
    _forwarded: dict[Lease, int] = field(default_factory=dict)
    _answered: dict[Lease, int] = field(default_factory=dict)
    _turned: dict[Lease, int] = field(default_factory=dict)
    _turn_counted: set[Lease] = field(default_factory=set)

    # --- frames ----------------------------------------------------------------------------------------------------

    def is_early(self, plan: int, work: Work) -> bool:
        """Whether a frame belongs to a later step or plan."""
        return work.step > self.step or plan > self.plan

    def forward(self, plan: int, work: Work) -> Verdict:
        """An activation arrived; COMPUTE replaces an earlier attempt at the same lease."""
        verdict = self._timely(plan, work)
        if verdict is Verdict.COMPUTE:
            if self._forwarded.get(work.lease, -1) >= work.attempt:
                return self._refuse()
            self._forwarded[work.lease] = work.attempt
        return verdict

    def backward(self, plan: int, work: Work) -> Verdict:
        """A gradient arrived for a forward computed here; COUNT enters the lease in the books."""
        verdict = self._timely(plan, work)
        if verdict is not Verdict.COMPUTE:
            return verdict
        if self._forwarded.get(work.lease) != work.attempt or self._answered.get(work.lease, -1) >= work.attempt:
            return self._refuse()
        self._answered[work.lease] = work.attempt
        if work.lease in self._counted:
            return Verdict.ANSWER
        self._counted.add(work.lease)
        return Verdict.COUNT

    def turn(self, plan: int, work: Work) -> Verdict:
        """An activation came home to its owner; COUNT enters the back's part of the lease in the books."""
        verdict = self._timely(plan, work)
        if verdict is not Verdict.COMPUTE:
            return verdict
        if self._turned.get(work.lease, -1) >= work.attempt:
            return self._refuse()
        self._turned[work.lease] = work.attempt
        if work.lease in self._turn_counted:
            return Verdict.ANSWER
        self._turn_counted.add(work.lease)
        return Verdict.COUNT

    def is_counted(self, lease: Lease) -> bool:
        """Whether the lease is in the books of the current step."""
        return lease in self._counted

    def reset(self) -> None:
        """The sums are gone: nothing is counted, whatever was prepared."""
        self._clear()
        self.state = State.OPEN

    def start_over(self, expected: tuple[Lease, ...]) -> tuple[Lease, ...]:
        """The sums are gone while closing: all of `expected` is missing; closed where that is nothing."""
        self._clear()
        self.state = State.OPEN if expected else State.CLOSED
        return expected

    def _clear(self) -> None:
        for books in (self._counted, self._forwarded, self._answered, self._turned, self._turn_counted):
            books.clear()

    def _timely(self, plan: int, work: Work) -> Verdict:
        if self.is_early(plan, work):
            return Verdict.WAIT
        if work.step < self.step or plan < self.plan or self.state is not State.OPEN:
            return self._refuse()
        return Verdict.COMPUTE

    def _refuse(self) -> Verdict:
        self.refused += 1
        return Verdict.REFUSE

    # --- the leader ------------------------------------------------------------------------------------------------

    def obey(self, term: int) -> bool:
        """Whether a leader of this term may command; a higher term is obeyed from now on."""
        if term < self.term:
            return False
        self.term = term
        return True

    def close(self, order: CloseStep) -> Closing | None:
        """Compare the books; None where the order is out of date or about a step not reached yet."""
        if not self.obey(order.term) or order.step != self.step or order.round <= self.round:
            return None
        self.round = order.round
        expected = set(order.counted)
        missing = tuple(sorted(expected - self._counted))
        retract = tuple(sorted(self._counted - expected))
        self._counted &= expected
        self.state = State.OPEN if missing else State.CLOSED
        if not missing:
            self._forwarded.clear()
        return Closing(retract, missing)

    def go(self, order: GoRound) -> bool:
        """Whether to reduce now; True once a round."""
        if not self.obey(order.term) or (order.step, order.round) != (self.step, self.round):
            return False
        if self.state is not State.CLOSED:
            return False
        self.state = State.REDUCING
        return True

    def reduced(self, round_number: int) -> bool:
        """Whether the average that arrived is of the round still wanted."""
        if self.state is not State.REDUCING or round_number != self.round:
            return False
        self.state = State.REDUCED
        return True

    def reopen(self, order: ReopenStep) -> bool:
        """Whether a prepared round must be dropped."""
        if not self.obey(order.term) or order.step != self.step or order.round < self.round:
            return False
        was_closed = self.state is not State.OPEN
        self.state = State.OPEN
        return was_closed

    def commit(self, order: CommitStep) -> bool:
        """Whether to apply the averaged gradient; the next step is open afterwards."""
        if not self.obey(order.term) or (order.step, order.round) != (self.step, self.round):
            return False
        if self.state is not State.REDUCED:
            return False
        self.step += 1
        self.round = 0
        self.state = State.OPEN
        self._clear()
        return True

    def adopt(self, plan: int, stage: int) -> None:
        """A newer plan with the same span for this replica holds from the current step; its group has this number."""
        if plan > self.plan:
            self.plan, self.stage = plan, stage
