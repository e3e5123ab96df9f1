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

Frames of a later step or plan wait; those of an earlier one are stale. Frames of a closed step wait, too: a replay may
overtake the leader's ReopenStep. With staleness 1 the step after the current one
has books of its own, open in every state: what they hold becomes the current step's at the commit. Nothing here knows
a tensor or a clock.
"""

from __future__ import annotations

import enum
from collections import deque
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
class _Books:
    """Of one step: what is counted, and the newest attempt of every lease at every turn of its way."""

    counted: set[Lease] = field(default_factory=set)
    forwarded: dict[Lease, int] = field(default_factory=dict)
    answered: dict[Lease, int] = field(default_factory=dict)
    turned: dict[Lease, int] = field(default_factory=dict)
    turn_counted: set[Lease] = field(default_factory=set)


@dataclass(slots=True)
class Replica:
    """The books and the life cycle of one replica.

    Args:
        stage: group number.
        plan: number of the plan it was built for.
        step: the step that is committed next; also the number of steps its weights have seen.
        staleness: how many steps after that one it counts, too.
    """

    stage: int
    plan: int
    step: int
    staleness: int = 0
    state: State = State.OPEN
    term: int = 0
    round: int = 0
    refused: int = 0
    _books: deque[_Books] = field(init=False)
    """Of `step` and of those after it."""

    def __post_init__(self) -> None:
        self._books = deque(_Books() for _ in range(1 + self.staleness))

    # --- frames ----------------------------------------------------------------------------------------------------

    def is_early(self, plan: int, work: Work) -> bool:
        """Whether a frame belongs to a later step or plan than we work on, or to a step that may be opened again."""
        if work.step > self.step + self.staleness or plan > self.plan:
            return True
        return plan == self.plan and work.step == self.step and self.state is not State.OPEN

    def forward(self, plan: int, work: Work) -> Verdict:
        """An activation arrived; COMPUTE replaces an earlier attempt at the same lease."""
        verdict = self._timely(plan, work)
        if verdict is Verdict.COMPUTE:
            forwarded = self._of(work.step).forwarded
            if forwarded.get(work.lease, -1) >= work.attempt:
                return self._refuse()
            forwarded[work.lease] = work.attempt
        return verdict

    def backward(self, plan: int, work: Work) -> Verdict:
        """A gradient arrived for a forward computed here; COUNT enters the lease in the books."""
        verdict = self._timely(plan, work)
        if verdict is not Verdict.COMPUTE:
            return verdict
        books = self._of(work.step)
        if books.forwarded.get(work.lease) != work.attempt or books.answered.get(work.lease, -1) >= work.attempt:
            return self._refuse()
        books.answered[work.lease] = work.attempt
        return _enter(books.counted, work.lease)

    def turn(self, plan: int, work: Work) -> Verdict:
        """An activation came home to its owner; COUNT enters the back's part of the lease in the books."""
        verdict = self._timely(plan, work)
        if verdict is not Verdict.COMPUTE:
            return verdict
        books = self._of(work.step)
        if books.turned.get(work.lease, -1) >= work.attempt:
            return self._refuse()
        books.turned[work.lease] = work.attempt
        return _enter(books.turn_counted, work.lease)

    def is_counted(self, lease: Lease) -> bool:
        """Whether the lease is in the books of the current step."""
        return lease in self._books[0].counted

    def reset(self, step: int) -> None:
        """The sums of a step are gone: nothing of it is counted, whatever was prepared."""
        if not 0 <= step - self.step < len(self._books):
            return  # of a step that is over
        self._books[step - self.step] = _Books()
        if step == self.step:
            self.state = State.OPEN

    def start_over(self, expected: tuple[Lease, ...]) -> tuple[Lease, ...]:
        """The sums are gone while closing: all of `expected` is missing; closed where that is nothing."""
        self._books[0] = _Books()
        self.state = State.OPEN if expected else State.CLOSED
        return expected

    def _of(self, step: int) -> _Books:
        return self._books[step - self.step]

    def _timely(self, plan: int, work: Work) -> Verdict:
        if self.is_early(plan, work):
            return Verdict.WAIT
        if work.step < self.step or plan < self.plan:
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
        expected, books = set(order.counted), self._books[0]
        missing = tuple(sorted(expected - books.counted))
        retract = tuple(sorted(books.counted - expected))
        books.counted &= expected
        for lease in retract:  # what answers their later attempts is gone with them
            books.forwarded.pop(lease, None)
        self.state = State.OPEN if missing else State.CLOSED
        if not missing:
            books.forwarded.clear()
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
        self._books.popleft()
        self._books.append(_Books())
        return True

    def adopt(self, plan: int, stage: int) -> None:
        """A newer plan with the same span for this replica holds from the current step; its group has this number."""
        if plan > self.plan:
            self.plan, self.stage = plan, stage


def _enter(counted: set[Lease], lease: Lease) -> Verdict:
    if lease in counted:
        return Verdict.ANSWER
    counted.add(lease)
    return Verdict.COUNT
