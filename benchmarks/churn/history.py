"""Plays a trace to a follower and keeps the books: throughput against the bound, moves, bytes.

The books are kept apart from the follower's own: a peer serves from the end of its load to its next move.
"""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field

from benchmarks.churn.policies import SWARM_PERIOD_S, Follower
from benchmarks.churn.population import Trace
from scheduler.planner.moves import Decision


@dataclass(slots=True)
class Books:
    """What became of a trace.

    Attributes:
        fraction_of_bound: throughput of the slowest stage, over speeds of all live peers divided by stages; averaged
            over time, warm-up left out.
        num_moves: of peers that served another stage; `num_switches` of them had a copy.
        moved_bytes, copied_bytes, upkeep_bytes: fetched by movers and joiners, for copies, to keep copies current.
        up_bytes: that all live peers' lines could have sent.
        most_moves: of one event.
        empty_s: seconds in which a stage had no peer that served.
        event_s: of the follower, each event.
    """

    fraction_of_bound: float = 0.0
    num_moves: int = 0
    num_switches: int = 0
    num_copies: int = 0
    moved_bytes: float = 0.0
    copied_bytes: float = 0.0
    upkeep_bytes: float = 0.0
    up_bytes: float = 0.0
    most_moves: int = 0
    empty_s: float = 0.0
    event_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Peer:
    """`serves` is -1 or the stage that it serves; `stage` the one that it has or loads."""

    rate: float
    stage: int
    serves: int
    arrival: int = -1
    copy: int = -1
    copy_whole: bool = False


class History:
    """One follower's run.

    Args:
        stages: of the peers that are there at the beginning, as in the trace's instance; they serve.
        rates: microbatches a second of every peer.
        warm_up_s: left out of the averages.
    """

    def __init__(
        self, trace: Trace, follower: Follower, stages: dict[str, int], rates: dict[str, float], warm_up_s: float
    ) -> None:
        self._trace = trace
        self._follower = follower
        self._rates = rates
        self._warm_up_s = warm_up_s
        self._num_stages = max(stages.values()) + 1
        self._peers = {name: _Peer(rates[name], stage, stage) for name, stage in stages.items()}
        self._serving = [0.0] * self._num_stages
        for peer in self._peers.values():
            self._serving[peer.stage] += peer.rate
        self._due: list[tuple[float, int, str, str, int]] = []
        self._order = itertools.count()
        self._now_s = 0.0
        self.books = Books()

    def run(self, end_s: float) -> Books:
        """All of the trace."""
        for happening in self._trace.happenings:
            self._at(happening.time_s, "join" if happening.is_join else "leave", happening.name)
        for number in range(1, int(end_s / SWARM_PERIOD_S) + 1):
            self._at(number * SWARM_PERIOD_S, "tick", "")
        self._at(end_s, "end", "")
        weighted = 0.0
        while True:
            due_s, number, kind, name, detail = heapq.heappop(self._due)
            weighted += self._account(due_s)
            if kind == "end":
                self.books.fraction_of_bound = weighted / (end_s - self._warm_up_s)
                return self.books
            began_s = time.perf_counter()
            decision = self._happen(number, kind, name, detail)
            if decision is not None:
                self.books.event_s.append(time.perf_counter() - began_s)
                self._carry_out(decision)

    def _at(self, due_s: float, kind: str, name: str, detail: int = -1) -> int:
        number = next(self._order)
        heapq.heappush(self._due, (due_s, number, kind, name, detail))
        return number

    def _account(self, until_s: float) -> float:
        """Move on in time; returns share of the bound times seconds."""
        counted_s = until_s - max(self._now_s, self._warm_up_s)
        self._now_s = until_s
        if counted_s <= 0:
            return 0.0
        books, work = self.books, self._trace.instance.work
        rate = max(0.0, min(self._serving))
        num_copies = sum(peer.copy_whole for peer in self._peers.values())
        layers = work.num_layers // self._num_stages
        books.upkeep_bytes += num_copies * layers * work.gradient_bytes * rate / work.global_batch * counted_s
        books.up_bytes += counted_s * sum(self._trace.claims[name].up_bytes_per_s for name in self._peers)
        books.empty_s += counted_s * (rate <= 1e-9)
        return counted_s * rate / (sum(peer.rate for peer in self._peers.values()) / self._num_stages)

    def _happen(self, number: int, kind: str, name: str, detail: int) -> Decision | None:
        """Tell the follower; None for what no longer matters."""
        if kind == "tick":
            return self._follower.tick()
        if kind == "join":
            self._peers[name] = _Peer(self._rates[name], -1, -1)
            return self._follower.join(self._trace.claims[name])
        peer = self._peers.get(name)
        if kind == "leave":
            assert peer is not None
            self._stop(peer)
            del self._peers[name]
            return self._follower.leave(name)
        if kind == "arrived":
            if peer is None or peer.arrival != number:
                return None
            self._stop(peer)
            peer.serves = peer.stage
            self._serving[peer.stage] += peer.rate
            return self._follower.arrived(name)
        if peer is None or peer.copy != detail:
            return None
        peer.copy_whole = True
        return self._follower.copied(name, detail)

    def _stop(self, peer: _Peer) -> None:
        if peer.serves >= 0:
            self._serving[peer.serves] -= peer.rate
            peer.serves = -1

    def _carry_out(self, decision: Decision) -> None:
        books = self.books
        counts = self._now_s >= self._warm_up_s
        books.most_moves = max(books.most_moves, len(decision.moves))
        for move in decision.moves:
            peer = self._peers[move.host]
            if not move.serves_meanwhile:
                self._stop(peer)
            has_state = peer.copy == move.to_stage and peer.copy_whole
            peer.copy, peer.copy_whole = (peer.stage, peer.stage >= 0) if has_state else (-1, False)
            peer.stage = move.to_stage
            peer.arrival = self._at(self._now_s + move.load_s, "arrived", move.host)
            if counts:
                books.moved_bytes += move.num_bytes
                books.num_moves += move.from_stage >= 0
                books.num_switches += has_state
        for copy in decision.copies:
            peer = self._peers[copy.host]
            peer.copy, peer.copy_whole = copy.stage, False
            self._at(self._now_s + copy.load_s, "copied", copy.host, copy.stage)
            if counts:
                books.copied_bytes += copy.num_bytes
                books.num_copies += 1
