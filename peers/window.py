"""An owner's desk: which microbatches it was lent, which are on their way, which must go again.

    state      event                                        to
    PENDING    a place in the window is free                IN_FLIGHT, attempt + 1 from the second time on
    IN_FLIGHT  the last gradient came home                  DONE
    IN_FLIGHT  a hop failed, a peer was lost, or too late   PENDING; from the second failed hop on, after a pause
    DONE       ReplayWork from the leader                   PENDING
    any        its step is committed                        forgotten; its cursors are spent

A lease keeps its cursor through all attempts, so every attempt carries the same text. With staleness 1 microbatches of
the step after the current one are lent and sent, too, in the order in which they were lent.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, field

from peers.detours import Detours, ways_of
from peers.routes import Router
from swarm.plan import Plan
from swarm.wire.messages import GrantLeases, Lease, ReplayWork, Work

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0
"""Between attempts of a microbatch whose hops keep failing: there may be no way around until another plan comes."""
_MOST_DOUBLINGS = 4


class Progress(enum.Enum):
    """Where a leased microbatch is."""

    PENDING = "pending"
    IN_FLIGHT = "in flight"
    DONE = "done"


@dataclass(slots=True)
class _Item:
    step: int
    lease: Lease
    cursor: int
    progress: Progress = Progress.PENDING
    attempt: int = -1
    route: tuple[str, ...] = ()
    avoid: frozenset[str] = frozenset()
    admitted_at_s: float = 0.0
    failed_hops: int = 0
    not_before_s: float = 0.0

    @property
    def work(self) -> Work:
        """Its newest attempt."""
        return Work(self.step, self.lease, self.attempt)


@dataclass(frozen=True, slots=True)
class Admission:
    """Send this microbatch on its way."""

    work: Work
    cursor: int
    route: tuple[str, ...]


@dataclass(slots=True)
class Window:
    """The desk.

    Args:
        owner: whose desk it is.
        plan: routes and the number of microbatches in flight follow it.
        step: the step that is committed next.
        next_cursor: first microbatch of the shard that was never lent; at a step boundary, that no step has used.
        staleness: how many steps after that one microbatches are lent for, too.
    """

    owner: str
    plan: Plan
    step: int
    next_cursor: int
    staleness: int = 0
    router: Router = field(init=False)
    num_in_flight: int = 0
    stale: int = 0
    _items: dict[tuple[int, Lease], _Item] = field(default_factory=dict)
    _detours: Detours = field(default_factory=Detours)

    def __post_init__(self) -> None:
        self.router = self._new_router()

    def adopt(self, plan: Plan) -> None:
        """A newer plan holds from now on; nothing is in flight at a step boundary."""
        self._detours.forget(_peers_of(plan) - _peers_of(self.plan))
        self.plan = plan
        self.router = self._new_router()

    def grant(self, order: GrantLeases) -> bool:
        """Take in leases; False where they are for another step or plan."""
        if not self._is_open(order.step) or order.plan != self.plan.number:
            self.stale += 1
            return False
        for lease in order.leases:
            if (order.step, lease) not in self._items:
                self._items[order.step, lease] = _Item(order.step, lease, self._draw_cursor())
        return True

    def admit(self, now_s: float) -> list[Admission]:
        """Fill the window with what is pending."""
        admitted = []
        broken = self._detours.avoided(now_s)
        for item in self._items.values():
            if self.num_in_flight >= self.plan.window:
                break
            if item.progress is not Progress.PENDING or item.not_before_s > now_s:
                continue
            route = self.router.draw(item.route, item.avoid, self.owner, broken)
            if route is None:
                break
            item.progress, item.route, item.admitted_at_s = Progress.IN_FLIGHT, route, now_s
            item.attempt += 1
            self.num_in_flight += 1
            admitted.append(Admission(item.work, item.cursor, route))
        return admitted

    def complete(self, work: Work) -> tuple[str, ...] | None:
        """The last gradient came home: the route that counted it, or None for an attempt that no longer matters."""
        item = self._current(work)
        if item is None:
            return None
        item.progress = Progress.DONE
        self._detours.worked(ways_of(self.owner, item.route))
        self.num_in_flight -= 1
        item.avoid, item.failed_hops, item.not_before_s = frozenset(), 0, 0.0
        self.router.release(item.route)
        return item.route

    def hop_failed(self, work: Work, peer: str, now_s: float, reporter: str = "") -> bool:
        """A hop to `peer` failed, says `reporter`: the microbatch goes again, around it if possible."""
        item = self._current(work)
        if item is None:
            return False
        item.avoid |= {peer}
        if reporter:
            self._detours.failed([frozenset((reporter, peer))], now_s)
        if item.failed_hops:
            doublings = min(item.failed_hops - 1, _MOST_DOUBLINGS)
            item.not_before_s = now_s + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**doublings)
        item.failed_hops += 1
        self._send_again(item)
        return True

    def next_attempt_in_s(self, now_s: float) -> float | None:
        """How long the next paused microbatch still has to wait; None where none is paused."""
        pauses = [
            item.not_before_s - now_s
            for item in self._items.values()
            if item.progress is Progress.PENDING and item.not_before_s > now_s
        ]
        return min(pauses, default=None)

    def peers_lost(self, peers: Collection[str]) -> None:
        """What is on its way through lost peers goes again."""
        self.router.lost.update(peers)
        for item in self._items.values():
            if item.progress is Progress.IN_FLIGHT and not self.router.lost.isdisjoint(item.route):
                self._send_again(item)

    def replay(self, order: ReplayWork) -> None:
        """The leader needs these again."""
        if not self._is_open(order.step):
            self.stale += 1
            return
        self.peers_lost(order.lost)
        for work in order.work:
            item = self._items.get((order.step, work.lease))
            if item is not None and item.progress is Progress.DONE and item.attempt == work.attempt:
                item.progress = Progress.PENDING

    def overdue(self, now_s: float, patience_s: float) -> list[tuple[Work, tuple[str, ...]]]:
        """Send again what has been on its way for longer than `patience_s`; returns those attempts."""
        late = [
            item
            for item in self._items.values()
            if item.progress is Progress.IN_FLIGHT and now_s - item.admitted_at_s > patience_s
        ]
        found = [(item.work, item.route) for item in late]
        for item in late:
            self._detours.failed(ways_of(self.owner, item.route), now_s)
            self._send_again(item)
        return found

    def put_back(self, work: Work) -> None:
        """An admitted microbatch could not leave: it waits for the next chance."""
        item = self._current(work)
        if item is not None:
            self._send_again(item)

    def committed(self, step: int) -> None:
        """The step is over: whatever was lent for it is spent, also where a needless replay is still on its way."""
        if step != self.step:
            return
        for item in [item for item in self._items.values() if item.step == step]:
            if item.progress is Progress.IN_FLIGHT:
                self._send_again(item)
            del self._items[step, item.lease]
        self.step += 1
        if not self._items:
            self.router = self._new_router(self.router.lost)

    def expected_s(self, microbatch_tokens: int) -> float:
        """How long a microbatch is on its way while windows are full, by the plan's own prediction; 0 without one.

        Source: Little's law.
        """
        if not self.plan.predicted_tokens_per_s:
            return 0.0
        return len(self.plan.owners) * self.plan.window * microbatch_tokens / self.plan.predicted_tokens_per_s

    def cursor_of(self, work: Work) -> int | None:
        """The sample of an attempt that is still wanted."""
        item = self._current(work)
        return None if item is None else item.cursor

    def is_wanted(self, plan: int, work: Work, route: tuple[str, ...]) -> bool:
        """Whether this attempt was sent on this very route and is still awaited."""
        item = self._current(work)
        return item is not None and item.route == route and plan == self.plan.number

    def _current(self, work: Work) -> _Item | None:
        item = self._items.get((work.step, work.lease))
        if item is None:
            return None
        if item.progress is not Progress.IN_FLIGHT or item.attempt != work.attempt:
            return None
        return item

    def _is_open(self, step: int) -> bool:
        return self.step <= step <= self.step + self.staleness

    def _send_again(self, item: _Item) -> None:
        item.progress = Progress.PENDING
        self.num_in_flight -= 1
        self.router.release(item.route)

    def _new_router(self, lost: Collection[str] = ()) -> Router:
        return Router(self.plan, f"{self.owner}/{self.step}", set(lost))

    def _draw_cursor(self) -> int:
        self.next_cursor += 1
        return self.next_cursor - 1


def _peers_of(plan: Plan) -> set[str]:
    return {peer for stage in plan.stages for peer in stage.replicas}
