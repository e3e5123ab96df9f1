"""What a peer has one of: a compute thread, an uplink, a downlink. Each does one thing after another."""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.simulator.clock import Clock


class Priority(enum.IntEnum):
    """Of jobs; as in `swarm.training.compute`, which cannot be imported without torch."""

    BACKWARD = 0
    LOSS = 1
    FORWARD = 2


@dataclass(slots=True)
class Spent:
    """Where one peer's seconds went.

    Attributes:
        compute_s: jobs.
        link_s: no job was there, and the next one's tensor was on its way.
        bubble_s: no job was there, nor its tensor on the way: filling, draining, or others are slower.
        reduce_s: from the leader's order to close a step to its commit.
    """

    compute_s: float = 0.0
    link_s: float = 0.0
    bubble_s: float = 0.0
    reduce_s: float = 0.0


class Compute:
    """One thread: by priority, first come first served within one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: list[tuple[int, int, float, float, Callable[[], None]]] = []
        self._order = itertools.count()
        self._runs = False
        self._stopped = False
        self._idle_since_s = clock.now_s
        self.spent = Spent()

    def submit(self, priority: Priority, seconds: float, transit_s: float, done: Callable[[], None]) -> None:
        """Add a job.

        Args:
            transit_s: for so long its tensor was on its way until now.
            done: called when it is finished.
        """
        if self._stopped:
            return
        heapq.heappush(self._jobs, (int(priority), next(self._order), seconds, transit_s, done))
        if not self._runs:
            self._start()

    def stop(self) -> None:
        """The peer died."""
        self._stopped = True
        self._jobs.clear()

    def commit(self, closing_since_s: float) -> None:
        """A step is over: the gap since the last job ends here."""
        if not self._runs and not self._stopped:
            now_s = self._clock.now_s
            drained_s = max(closing_since_s, self._idle_since_s)
            self.spent.bubble_s += drained_s - self._idle_since_s
            self.spent.reduce_s += now_s - drained_s
            self._idle_since_s = now_s

    def _start(self) -> None:
        _, _, seconds, transit_s, done = heapq.heappop(self._jobs)
        gap_s = self._clock.now_s - self._idle_since_s
        waited_s = min(gap_s, transit_s)
        self.spent.link_s += waited_s
        self.spent.bubble_s += gap_s - waited_s
        self._runs = True
        self._clock.after(seconds, self._finish, seconds, done)

    def _finish(self, seconds: float, done: Callable[[], None]) -> None:
        if self._stopped:
            return
        self.spent.compute_s += seconds
        self._runs = False
        self._idle_since_s = self._clock.now_s
        done()
        if self._jobs and not self._runs:
            self._start()


class Line:
    """One direction of a peer's line: whole frames, one after another."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.free_s = 0.0
        self.num_bytes = 0.0

    def occupy(self, now_s: float, num_bytes: float) -> tuple[float, float]:
        """Take the line as soon as it is free; returns when a frame's first byte and when its last has passed."""
        begin_s = max(now_s, self.free_s)
        self.free_s = begin_s + num_bytes / self.bytes_per_s
        self.num_bytes += num_bytes
        return begin_s, self.free_s


class Wire:
    """Everything between two peers.

    Args:
        latency_s: one way, by region.
        pair_bytes_per_s: of one connection, by region.
    """

    def __init__(self, clock: Clock, latency_s: list[list[float]], pair_bytes_per_s: list[list[float]]) -> None:
        self._clock = clock
        self._latency_s = latency_s
        self._pair_bytes_per_s = pair_bytes_per_s

    def transfer(
        self,
        up: Line,
        down: Line,
        regions: tuple[int, int],
        num_bytes: float,
        arrived: Callable[[float], None],
    ) -> None:
        """Send a frame: through the sender's line, then, as it comes, through the receiver's.

        Args:
            arrived: called with the seconds since now when the last byte is there.
        """
        sent_s = self._clock.now_s
        here, there = regions
        latency_s = self._latency_s[here][there]
        first_s, last_s = up.occupy(sent_s, num_bytes)
        last_s = max(last_s, first_s + num_bytes / self._pair_bytes_per_s[here][there]) + latency_s

        def begins() -> None:
            _, end_s = down.occupy(self._clock.now_s, num_bytes)
            self._clock.after(max(end_s, last_s) - self._clock.now_s, ends)

        def ends() -> None:
            arrived(self._clock.now_s - sent_s)

        self._clock.after(first_s + latency_s - sent_s, begins)
