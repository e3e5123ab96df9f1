"""Peers that bring themselves to the state of a group that they do not serve, and follow it step by step. Pure.

    state      event                                        to         sends
    (none)     a plan change needs it, or a plan names it   WANTED
               as a shadow
    WANTED     a commit, and loads may begin                COPYING    (members of its group keep a copy)
    COPYING    every member has applied that step           LOADING    PrepareGroup, FollowStep of each step since
    LOADING    the state is here                            CURRENT
    LOADING    a commit                                     LOADING    FollowStep
    CURRENT    a commit                                     CURRENT    FollowStep
    COPYING,   a plan change wants another load to begin    COPYING    (members have room for one copy; CancelGroup)
    LOADING
    any        lost, given up, or no longer needed          (none)     CancelGroup, where it may still load
    any        a hundred steps behind, or waited for        (given up)

Movers of a plan change go on with their present work meanwhile, and so do shadows, which no change waits for. Members
share each step's averaged gradient from the copy on, so a follower is bit-equal at every step that it has reached.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from scheduler.instructions import Instruction, Send
from swarm.model.spans import Span, overlap
from swarm.wire.messages import CancelGroup, FollowStep, GroupLoaded, GroupNotLoaded, PrepareGroup

MAX_LOADING_STEPS = 100
"""Loads take no more steps: members keep an average of each, and no checkpoint is taken meanwhile."""
MAX_LAG_STEPS = 2
"""How many averages one that takes over may still lack: its group waits for them."""
_TRANSFERS_OF_A_TERM = 1 << 32

Follower = tuple[str, Span]
"""A peer, and what it follows."""


def first_transfer(term: int) -> int:
    """No load of one leader has the number of another leader's."""
    return term * _TRANSFERS_OF_A_TERM


@dataclass(frozen=True, slots=True)
class Committed:
    """A step, the round that led to its average, and the norm of the whole model's gradient."""

    step: int
    round: int
    grad_norm: float


class _State(enum.Enum):
    WANTED = "wanted"
    COPYING = "copying"
    LOADING = "loading"
    CURRENT = "current"


@dataclass(slots=True)
class _Follower:
    """One of them.

    Attributes:
        is_mover: a plan change waits for it; others are shadows, which nobody waits for.
        waited_steps: commits since then.
        from_steps: the state after so many steps is what it loads first.
        reached: number of steps of the state that it holds.
        owed: steps that it must take as soon as it may load.
    """

    transfer: int
    is_mover: bool = False
    waited_steps: int = 0
    state: _State = _State.WANTED
    from_steps: int = 0
    reached: int = 0
    owed: list[Committed] = field(default_factory=list)


@dataclass(slots=True)
class Followers:
    """All of them, of one leader's term.

    Args:
        term: of the leader.
    """

    term: int
    _all: dict[Follower, _Follower] = field(default_factory=dict)
    _num_transfers: int = 0
    _may_begin: bool = False
    _digests: dict[tuple[Span, int], tuple[str, str]] = field(default_factory=dict)
    """Of the weights of a span after so many steps, and the follower that said so; empty where a member did."""

    # --- who -------------------------------------------------------------------------------------------------------

    def want(self, follower: Follower, *, is_mover: bool = False) -> None:
        """It is needed; one that is there already goes on as it is."""
        if follower not in self._all:
            self._num_transfers += 1
            self._all[follower] = _Follower(first_transfer(self.term) + self._num_transfers)
        self._all[follower].is_mover |= is_mover

    def only_shadow(self, follower: Follower) -> None:
        """No plan change waits for it any more."""
        known = self._all[follower]
        known.is_mover, known.waited_steps = False, 0

    def drop(self, follower: Follower) -> list[Instruction]:
        """It is not needed."""
        known = self._all.pop(follower, None)
        if known is None:
            return []
        return [Send(follower[0], CancelGroup(term=self.term, transfer=known.transfer))]

    def lose(self, lost: set[str]) -> None:
        """Peers died."""
        self._all = {follower: known for follower, known in self._all.items() if follower[0] not in lost}

    def take_over(self, followers: Iterable[Follower]) -> None:
        """They are members now."""
        for follower in followers:
            self._all.pop(follower, None)

    def goes_on(self, follower: Follower, num_steps: int, donors: tuple[str, ...]) -> list[Instruction]:
        """A member that leaves its group keeps the state, and follows."""
        self.want(follower)
        known = self._all[follower]
        known.state, known.from_steps = _State.LOADING, num_steps
        return [Send(follower[0], self._prepare(follower, known, donors, 0))]

    # --- what members keep for them --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Loads may begin with the next commit, if not with a later one: until then, nobody needs members' copies."""
        self._may_begin = True

    @property
    def hold_copies(self) -> bool:
        """Whether members' copies must stay as they are."""
        return any(known.state in (_State.COPYING, _State.LOADING) for known in self._all.values())

    def need_copy(self, span: Span) -> bool:
        """Whether members that hold `span` keep a copy of the state after this commit."""
        return any(overlap(span, wanted) for _, wanted in self._beginning())

    def averages_after(self, span: Span) -> int:
        """Members that hold `span` keep averages that lead beyond so many steps; -1 for none."""
        reached = [
            max(known.reached, known.from_steps)
            for follower, known in self._items
            if overlap(span, follower[1]) and known.state is not _State.WANTED
        ]
        return min(reached, default=-1)

    def _beginning(self) -> list[Follower]:
        """Whose loads begin at this commit."""
        in_a_hurry = any(known.state is _State.WANTED and known.is_mover for _, known in self._items)
        if not self._may_begin or (self.hold_copies and not in_a_hurry):
            return []
        # Those that load already lose the copy that they load from.
        waiting = [follower for follower, known in self._items if known.state is not _State.CURRENT]
        is_new = any(self._all[follower].state is _State.WANTED for follower in waiting)
        return waiting if is_new else []

    @property
    def _items(self) -> Iterable[tuple[Follower, _Follower]]:
        return self._all.items()

    # --- steps -----------------------------------------------------------------------------------------------------

    def committed(self, done: Committed) -> list[Instruction]:
        """A step was committed, as `need_copy` and `averages_after` had it."""
        beginning = self._beginning()
        instructions: list[Instruction] = []
        for (peer, _), known in self._items:
            known.waited_steps += known.is_mover
            if known.state is _State.COPYING:
                known.owed.append(done)
            elif known.state in (_State.LOADING, _State.CURRENT):
                instructions.append(Send(peer, self._follow(known, done)))
        for follower in beginning:
            known = self._all[follower]
            if known.state is _State.LOADING:
                instructions.append(Send(follower[0], CancelGroup(term=self.term, transfer=known.transfer)))
                self._num_transfers += 1
                known.transfer = first_transfer(self.term) + self._num_transfers
            known.state, known.from_steps, known.reached = _State.COPYING, done.step + 1, 0
            known.owed.clear()
        self._may_begin = False
        oldest = done.step - MAX_LOADING_STEPS
        self._digests = {key: digest for key, digest in self._digests.items() if key[1] > oldest}
        return instructions

    def all_applied(
        self, num_steps: int, donors_of: Callable[[Span], tuple[str, ...]], cursors: Mapping[str, int]
    ) -> list[Instruction]:
        """Every member holds the state after so many steps, and its copy if one was wanted.

        Args:
            donors_of: members that hold some of a span.
            cursors: by owner, the first microbatch that no committed step has used.
        """
        instructions: list[Instruction] = []
        for follower, known in self._items:
            if known.state is not _State.COPYING or known.from_steps != num_steps:
                continue
            known.state = _State.LOADING
            peer, span = follower
            order = self._prepare(follower, known, donors_of(span), cursors.get(peer, 0))
            instructions.append(Send(peer, order))
            instructions += [Send(peer, self._follow(known, owed)) for owed in known.owed]
            known.owed.clear()
        return instructions

    def _prepare(self, follower: Follower, known: _Follower, donors: tuple[str, ...], next_cursor: int) -> PrepareGroup:
        _, (first_layer, last_layer) = follower
        return PrepareGroup(
            term=self.term,
            transfer=known.transfer,
            num_steps=known.from_steps,
            first_layer=first_layer,
            last_layer=last_layer,
            next_cursor=next_cursor,
            donors=donors,
        )

    def _follow(self, known: _Follower, done: Committed) -> FollowStep:
        return FollowStep(
            term=self.term, transfer=known.transfer, step=done.step, round=done.round, grad_norm=done.grad_norm
        )

    # --- what they say ---------------------------------------------------------------------------------------------

    def find(self, peer: str, report: GroupLoaded | GroupNotLoaded) -> Follower | None:
        """Whose load a report is about; None for none of ours."""
        follower = peer, (report.first_layer, report.last_layer)
        known = self._all.get(follower)
        return follower if known is not None and known.transfer == report.transfer else None

    def loaded(self, follower: Follower, num_steps: int, digest: str) -> bool:
        """It holds the state after so many steps; False where others that hold it have other weights."""
        known = self._all[follower]
        known.reached = max(known.reached, num_steps)
        if known.state is _State.LOADING and known.reached >= known.from_steps:
            known.state = _State.CURRENT
        said, _ = self._digests.setdefault((follower[1], num_steps), (digest, follower[0]))
        return said == digest

    def applied(self, span: Span, num_steps: int, digest: str) -> Follower | None:
        """A member holds these weights; returns a follower that said something else."""
        if not any(follower[1] == span and known.state is not _State.WANTED for follower, known in self._items):
            return None
        said, by = self._digests.setdefault((span, num_steps), (digest, ""))
        return None if said == digest or not by else (by, span)

    # --- whether they are there ------------------------------------------------------------------------------------

    def is_near(self, follower: Follower, step: int) -> bool:
        """Whether one that takes over after the commit of `step` lacks next to nothing."""
        known = self._all.get(follower)
        return known is not None and known.state is _State.CURRENT and known.reached > step - MAX_LAG_STEPS

    def is_current(self, follower: Follower) -> bool:
        """Whether its load is over."""
        known = self._all.get(follower)
        return known is not None and known.state is _State.CURRENT

    def hopeless(self, step: int) -> list[Follower]:
        """Who is behind for too long, or waited for."""
        return [
            follower
            for follower, known in self._items
            if (known.waited_steps > MAX_LOADING_STEPS and not self.is_near(follower, step))
            or (known.state is not _State.WANTED and step - max(known.reached, known.from_steps) > MAX_LOADING_STEPS)
        ]
