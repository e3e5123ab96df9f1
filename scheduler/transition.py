"""From one plan to the next while the swarm trains: who loads what, and when the change may happen. Pure.

    state     event                                           to        sends
    WANTED    a commit, and nobody has anything to load       done      the new plan
    WANTED    a commit                                        COPYING   (members of its groups keep a copy)
    COPYING   every member has applied that step              LOADING   PrepareGroup to every mover
    LOADING   a commit, some mover is too far behind          LOADING   FollowStep to every mover
    LOADING   a commit, every mover has nearly caught up      done      FollowStep, then the new plan
    any       a mover cannot load, or has other weights       off       CancelGroup to every mover
    any       it takes more than a hundred steps              off       CancelGroup to every mover
    any       peers died, and a group would stay empty        off       CancelGroup to every mover

A mover goes on with its present work while it loads. It follows every step that is committed meanwhile by applying the
group's averaged gradient, which members share from the copy on; so it arrives bit-equal, and nobody waits for it but at
the change itself, for the last averages.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from scheduler.instructions import Instruction, PlanChangeOff, Send
from swarm.model.spans import ENDS, Span
from swarm.plan import Plan
from swarm.wire.messages import CancelGroup, FollowStep, GroupLoaded, GroupNotLoaded, PrepareGroup

MAX_LOADING_STEPS = 100
"""A change takes no more steps: members keep an average of each, and no checkpoint is taken meanwhile."""
_TRANSFERS_OF_A_TERM = 1 << 32
MAX_LAG_STEPS = 2
"""How many averages a mover may still lack when the plan changes: its group waits for them."""

Mover = tuple[str, Span]


class Stage(enum.Enum):
    """How far the change is."""

    WANTED = "wanted"
    COPYING = "copying"
    LOADING = "loading"


@dataclass(slots=True)
class Transition:
    """One plan change. Made with `between`.

    Attributes:
        transfer: its number.
        target: the plan to come, but for its number and first step.
        copied_steps: the state after so many steps is what movers load first.
    """

    transfer: int
    term: int
    target: Plan
    stage: Stage = Stage.WANTED
    copied_steps: int = 0
    _reached: dict[Mover, int] = field(default_factory=dict)
    _digests: dict[tuple[Span, int], str] = field(default_factory=dict)

    @classmethod
    def between(cls, transfer: int, term: int, plan: Plan, target: Plan) -> Transition:
        """The change from one plan to another."""
        self = cls(transfer, term, target)
        for peer in sorted({peer for group in target.groups for peer in group}):
            for span in sorted(target.spans_of(peer) - plan.spans_of(peer)):
                self._reached[peer, span] = 0
        return self

    def needs(self, span: Span) -> bool:
        """Whether members that hold `span` keep copies and averages for some mover."""
        return any(_overlap(span, wanted) for _, wanted in self._reached)

    def lose(self, lost: set[str]) -> bool:
        """Peers died: go on without them; False where that leaves a group empty."""
        gone = frozenset(lost)
        self.target = self.target.without(gone, self.target.first_step)
        self._reached = {mover: steps for mover, steps in self._reached.items() if mover[0] not in gone}
        return all(self.target.groups)

    def loaded(self, peer: str, report: GroupLoaded) -> bool:
        """A mover holds the state after some step; False where others that hold it have other weights."""
        span = (report.first_layer, report.last_layer)
        if not self.moves(peer, report):
            return True
        self._reached[peer, span] = max(self._reached[peer, span], report.num_steps)
        return self.weights_are(span, report.num_steps, report.digest)

    def moves(self, peer: str, report: GroupLoaded | GroupNotLoaded) -> bool:
        """Whether a report is about this change, from one of its movers."""
        mover = peer, (report.first_layer, report.last_layer)
        return report.transfer == self.transfer and mover in self._reached

    def weights_are(self, span: Span, num_steps: int, digest: str) -> bool:
        """Somebody holds these weights; False where another one said something else."""
        return self._digests.setdefault((span, num_steps), digest) == digest

    def is_ready(self, step: int) -> bool:
        """Whether the plan may change at the commit of `step`."""
        if not self._reached:
            return True
        least = min(self._reached.values())
        return self.stage is Stage.LOADING and least >= self.copied_steps and least > step - MAX_LAG_STEPS

    @property
    def slowest(self) -> str:
        """The mover that is furthest behind."""
        return min(self._reached, key=lambda mover: (self._reached[mover], mover))[0]

    def is_hopeless(self, step: int) -> bool:
        """Whether it takes too long."""
        return self.stage is not Stage.WANTED and step - self.copied_steps > MAX_LOADING_STEPS

    def prepare(self, plan: Plan, lost: set[str], cursors: Mapping[str, int]) -> list[Instruction]:
        """Every member has its copy: movers may fetch it."""
        self.stage = Stage.LOADING
        instructions: list[Instruction] = []
        for peer, span in self._reached:
            donors = [
                member
                for group, members in enumerate(plan.groups)
                for member in members
                if member not in lost and _overlap(plan.span_of(group), span)
            ]
            order = PrepareGroup(
                term=self.term,
                transfer=self.transfer,
                num_steps=self.copied_steps,
                first_layer=span[0],
                last_layer=span[1],
                next_cursor=cursors.get(peer, 0),
                donors=tuple(sorted(set(donors))),
            )
            instructions.append(Send(peer, order))
        return instructions

    def follow(self, step: int, grad_norm: float) -> list[Instruction]:
        """A step is committed that movers must take, too."""
        order = FollowStep(term=self.term, transfer=self.transfer, step=step, grad_norm=grad_norm)
        return [Send(peer, order) for peer in self._peers]

    def cancel(self) -> list[Instruction]:
        """The change is off."""
        return [Send(peer, CancelGroup(term=self.term, transfer=self.transfer)) for peer in self._peers]

    def plan_after(self, plan: Plan, first_step: int) -> Plan:
        """The target with the number and the step from which it holds."""
        return replace(self.target, number=plan.number + 1, first_step=first_step)

    @property
    def _peers(self) -> list[str]:
        return sorted({peer for peer, _ in self._reached})


@dataclass(slots=True)
class PlanChange:
    """The one plan change that may be on its way, for the step leader.

    Args:
        term: of the leader.
    """

    term: int
    _transition: Transition | None = None
    _num_transfers: int = 0

    @property
    def is_on(self) -> bool:
        """Whether one is on its way."""
        return self._transition is not None

    @property
    def holds_copies(self) -> bool:
        """Whether members' copies must stay as they are."""
        return self._transition is not None and self._transition.stage is not Stage.WANTED

    @property
    def target(self) -> Plan | None:
        """The plan to come."""
        return None if self._transition is None else self._transition.target

    def propose(self, plan: Plan, target: Plan, lost: set[str]) -> bool:
        """Begin a change; False while another one is on, or where a group of it would be empty."""
        if self._transition is not None:
            return False
        number = first_transfer(self.term) + self._num_transfers + 1
        transition = Transition.between(number, self.term, plan, target)
        if not transition.lose(lost):
            return False
        self._num_transfers += 1
        self._transition = transition
        return True

    def needs_copy(self, span: Span) -> bool:
        """Whether members that hold `span` keep a copy of the state after this commit."""
        return self._needs(Stage.WANTED, span)

    def needs_average(self, span: Span) -> bool:
        """Whether members that hold `span` keep the average of this commit."""
        return self._needs(Stage.LOADING, span)

    def _needs(self, stage: Stage, span: Span) -> bool:
        transition = self._transition
        return transition is not None and transition.stage is stage and transition.needs(span)

    def lose(self, lost: set[str]) -> list[Instruction]:
        """Peers died."""
        if self._transition is None or self._transition.lose(lost):
            return []
        return self._call_off("too many of its peers were lost")

    def loaded(self, peer: str, report: GroupLoaded, step: int) -> list[Instruction]:
        """A mover holds the state after some step; nothing follows where that step is not committed yet."""
        if self._transition is None or report.num_steps > step or self._transition.loaded(peer, report):
            return []
        return self._call_off(f"{peer} loaded other weights than the group holds", peer)

    def not_loaded(self, peer: str, report: GroupNotLoaded) -> list[Instruction]:
        """A mover cannot load what it should."""
        if self._transition is None or not self._transition.moves(peer, report):
            return []
        return self._call_off(f"{peer} cannot load its layers: {report.problem}", peer)

    def applied(self, span: Span, num_steps: int, digest: str) -> list[Instruction]:
        """A member that serves holds these weights."""
        if self._transition is None or self._transition.weights_are(span, num_steps, digest):
            return []
        return self._call_off("a peer loaded other weights than the group holds")

    def all_applied(self, num_steps: int, plan: Plan, lost: set[str], cursors: Mapping[str, int]) -> list[Instruction]:
        """Every member holds the state after so many steps, and its copy if one was wanted.

        Args:
            cursors: by owner, the first microbatch that no committed step has used.
        """
        transition = self._transition
        if transition is None or transition.stage is not Stage.COPYING or transition.copied_steps != num_steps:
            return []
        return transition.prepare(plan, lost, cursors)

    def is_ready(self, step: int) -> bool:
        """Whether the plan would change at the commit of `step`."""
        return self._transition is not None and self._transition.is_ready(step)

    def after_commit(
        self, step: int, grad_norm: float, plan: Plan, *, may_change: bool = True
    ) -> tuple[Plan, list[Instruction]]:
        """A step was committed: the plan that holds from the next one on, and what movers are told.

        Args:
            may_change: whether no microbatch is under way under the present plan.
        """
        transition, instructions = self._transition, list[Instruction]()
        if transition is None:
            return plan, instructions
        if transition.stage is Stage.LOADING:
            instructions += transition.follow(step, grad_norm)
        if may_change and transition.is_ready(step):
            self._transition = None
            return transition.plan_after(plan, step + 1), instructions
        if transition.is_hopeless(step):
            return plan, instructions + self._call_off("it takes too long", transition.slowest)
        if transition.stage is Stage.WANTED:
            transition.stage, transition.copied_steps = Stage.COPYING, step + 1
        return plan, instructions

    def forget(self) -> None:
        """The run is over."""
        self._transition = None

    def _call_off(self, problem: str, culprit: str = "") -> list[Instruction]:
        assert self._transition is not None
        instructions = [*self._transition.cancel(), PlanChangeOff(problem, culprit)]
        self._transition = None
        return instructions


def first_transfer(term: int) -> int:
    """No change of one leader has the number of another leader's."""
    return term * _TRANSFERS_OF_A_TERM


def _overlap(span: Span, other: Span) -> bool:
    if ENDS in (span, other):
        return span == other
    return span[0] < other[1] and other[0] < span[1]
