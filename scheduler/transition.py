"""From one plan to the next while the swarm trains: who loads what, and when the change may happen. Pure.

    event                                               to
    a plan is proposed                                  on: what its movers need is wanted (`followers.py`)
    a commit, every mover has nearly caught up          over: the new plan, from the next step on
    a mover cannot load, or has other weights           off: movers are cancelled, shadows stay
    a load takes more than a hundred steps              off, likewise
    peers died, and a group would stay empty            off, likewise

A host that has been a shadow of its new stage needs no load: its change comes with the next commit. Shadows that a plan
names load when nothing else does; one that fails is let go, and nobody waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from scheduler.followers import Committed, Follower, Followers
from scheduler.instructions import Instruction, PlanChangeOff, ShadowIsCurrent, ShadowIsGone
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import GroupLoaded, GroupNotLoaded


@dataclass(slots=True)
class PlanChange:
    """The one plan change that may be on its way, and the shadows of the plan that holds, for the step leader.

    Args:
        term: of the leader.
    """

    term: int
    target: Plan | None = None
    """The plan to come."""
    _movers: set[Follower] = field(default_factory=set)
    _shadows: set[Follower] = field(default_factory=set)
    _followers: Followers = field(init=False)

    def __post_init__(self) -> None:
        self._followers = Followers(self.term)

    # --- what is on its way ----------------------------------------------------------------------------------------

    @property
    def is_on(self) -> bool:
        """Whether one is on its way."""
        return self.target is not None

    @property
    def holds_copies(self) -> bool:
        """Whether members' copies must stay as they are."""
        return self._followers.hold_copies

    def holds(self, plan: Plan) -> None:
        """The first plan: its shadows have nothing yet."""
        self._shadows = set(plan.shadows)
        for shadow in sorted(self._shadows):
            self._followers.want(shadow)

    def propose(self, plan: Plan, target: Plan, lost: set[str]) -> bool:
        """Begin a change; False while another one is on, or where a group of it would be empty."""
        if self.target is not None:
            return False
        target = target.without(frozenset(lost), target.first_step)
        if not all(target.groups):
            return False
        peers = sorted({peer for group in target.groups for peer in group})
        movers = [(peer, span) for peer in peers for span in sorted(target.spans_of(peer) - plan.spans_of(peer))]
        for mover in movers:
            self._followers.want(mover, is_mover=True)
        self.target, self._movers = target, set(movers)
        self._followers.begin()
        return True

    def load_shadows(self) -> None:
        """No change is on, and nobody needs members' copies: shadows may begin to load."""
        self._followers.begin()

    def needs_copy(self, span: Span) -> bool:
        """Whether members that hold `span` keep a copy of the state after this commit."""
        return self._followers.need_copy(span)

    def averages_after(self, span: Span) -> int:
        """Members that hold `span` keep averages that lead beyond so many steps; -1 for none."""
        return self._followers.averages_after(span)

    # --- events ----------------------------------------------------------------------------------------------------

    def lose(self, lost: set[str]) -> list[Instruction]:
        """Peers died: go on without them, unless that leaves a group empty."""
        self._followers.lose(lost)
        self._shadows = {shadow for shadow in self._shadows if shadow[0] not in lost}
        if self.target is None:
            return []
        self.target = self.target.without(frozenset(lost), self.target.first_step)
        self._movers = {mover for mover in self._movers if mover[0] not in lost}
        return [] if all(self.target.groups) else self._call_off("too many of its peers were lost")

    def loaded(self, peer: str, report: GroupLoaded, step: int) -> list[Instruction]:
        """A follower holds the state after some step; nothing follows where that step is not committed yet."""
        follower = self._followers.find(peer, report)
        if follower is None or report.num_steps > step:
            return []
        was_current = self._followers.is_current(follower)
        if not self._followers.loaded(follower, report.num_steps, report.digest):
            return self._give_up(follower, f"{peer} loaded other weights than the group holds")
        is_new = follower in self._shadows and not was_current and self._followers.is_current(follower)
        return [ShadowIsCurrent(*follower)] if is_new else []

    def not_loaded(self, peer: str, report: GroupNotLoaded) -> list[Instruction]:
        """A follower cannot load what it should."""
        follower = self._followers.find(peer, report)
        return [] if follower is None else self._give_up(follower, f"{peer} cannot load its layers: {report.problem}")

    def applied(self, span: Span, num_steps: int, digest: str) -> list[Instruction]:
        """A member that serves holds these weights."""
        wrong = self._followers.applied(span, num_steps, digest)
        return [] if wrong is None else self._give_up(wrong, f"{wrong[0]} loaded other weights than the group holds")

    def all_applied(
        self, num_steps: int, plans: Sequence[Plan], lost: set[str], cursors: Mapping[str, int]
    ) -> list[Instruction]:
        """Every member holds the state after so many steps, and its copy if one was wanted.

        Args:
            plans: that the step ran under, and that holds now: members of both have what is needed.
            cursors: by owner, the first microbatch that no committed step has used.
        """

        def donors_of(span: Span) -> tuple[str, ...]:
            return tuple(sorted(frozenset[str]().union(*(plan.members_with(span) for plan in plans)) - lost))

        return self._followers.all_applied(num_steps, donors_of, cursors)

    def is_ready(self, step: int) -> bool:
        """Whether the plan would change at the commit of `step`."""
        return self.target is not None and all(self._followers.is_near(mover, step) for mover in self._movers)

    def after_commit(self, done: Committed, plan: Plan, *, may_change: bool = True) -> tuple[Plan, list[Instruction]]:
        """A step was committed: the plan that holds from the next one on, and what followers are told.

        Args:
            may_change: whether no microbatch is under way under the present plan.
        """
        instructions = self._followers.committed(done)
        if may_change and self.is_ready(done.step):
            assert self.target is not None
            changed = replace(self.target, number=plan.number + 1, first_step=done.step + 1)
            self.target, self._movers = None, set()
            return changed, instructions
        for follower in self._followers.hopeless(done.step):
            instructions += self._give_up(follower, "it takes too long")
        return plan, instructions

    def changed(self, old: Plan, plan: Plan) -> list[Instruction]:
        """Another plan holds, and members were sent it: its shadows are those that it names."""
        peers = {peer for group in plan.groups for peer in group}
        self._followers.take_over((peer, span) for peer in peers for span in plan.spans_of(peer))
        instructions: list[Instruction] = []
        for shadow in sorted(self._shadows - plan.shadows):
            instructions += self._followers.drop(shadow)
        self._shadows = set(plan.shadows)
        for peer, span in sorted(self._shadows):
            if span in old.spans_of(peer):
                donors = tuple(sorted(plan.members_with(span)))
                instructions += self._followers.goes_on((peer, span), plan.first_step, donors)
            else:
                self._followers.want((peer, span))
        return instructions

    def forget(self) -> None:
        """The run is over."""
        self.target, self._movers = None, set()

    def _give_up(self, follower: Follower, problem: str) -> list[Instruction]:
        """Of one that only keeps a copy, nobody waits."""
        instructions = self._followers.drop(follower)
        if follower in self._shadows:
            self._shadows.discard(follower)
            instructions.append(ShadowIsGone(*follower, problem))
        return instructions + (self._call_off(problem, follower[0]) if follower in self._movers else [])

    def _call_off(self, problem: str, culprit: str = "") -> list[Instruction]:
        instructions: list[Instruction] = []
        for mover in sorted(self._movers):
            if mover in self._shadows:
                self._followers.only_shadow(mover)
            else:
                instructions += self._followers.drop(mover)
        self.target, self._movers = None, set()
        return [*instructions, PlanChangeOff(problem, culprit)]
