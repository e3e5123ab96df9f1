"""One host to another stage: what it brings, what it costs, and whether that is worth it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.planner.evaluator import owners_reduce_s, step_seconds
from scheduler.planner.instance import Instance
from scheduler.planner.occupancy import Occupancy, Occupant, Phase

LEAST_REPLICAS = 2
"""Of a stage, where there are enough hosts: one death must not stop the run."""
_HYSTERESIS = 0.1
"""A move must bring this much more than it costs."""
_LEAST_GAIN = 0.01
"""Of the throughput: measured speeds are not more exact than this."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What replanning reckons with.

    Attributes:
        horizon_s: from a move on, until joins would have mended the same stage, or plans are made anew.
        mean_life_s: of a host; a mover may leave before its move has paid.
        serves_while_loading: whether a mover goes on with its old stage until it has loaded, as far as its memory
            holds both.
        switch_s: to begin serving a stage whose state the host has.
        copy_cover: copies of each stage's state that surplus memory should keep, in shares of the stage's throughput;
            0 for none.
        copy_line_share: of what microbatches leave of its host's line, and of its donors', that keeping a copy current
            may take.
    """

    horizon_s: float = 1800.0
    mean_life_s: float = 18_000.0
    serves_while_loading: bool = True
    switch_s: float = 5.0
    copy_cover: float = 0.0
    copy_line_share: float = math.inf


@dataclass(frozen=True, slots=True)
class Move:
    """A host gets another stage.

    Attributes:
        from_stage: -1 for a standby.
        num_bytes: it fetches; 0 where it has a copy.
        load_s: until it serves, as predicted.
        reason: for people.
        serves_meanwhile: whether it goes on with `from_stage` until then.
    """

    host: str
    from_stage: int
    to_stage: int
    num_bytes: float
    load_s: float
    reason: str
    serves_meanwhile: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """A host fetches the state of a second stage, and keeps it current with every step's averaged gradient.

    Attributes:
        num_bytes: to fetch, once.
        step_bytes: to fetch, every step.
        load_s: until the copy is whole, as predicted.
    """

    host: str
    stage: int
    num_bytes: float
    step_bytes: float
    load_s: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What an event leads to.

    Attributes:
        moves: two at most.
        copies: two at most; they stop nobody from serving.
    """

    moves: tuple[Move, ...] = ()
    copies: tuple[Copy, ...] = ()

    @property
    def num_bytes(self) -> float:
        """All that is fetched because of it."""
        return sum(move.num_bytes for move in self.moves) + sum(copy.num_bytes for copy in self.copies)


class Economy:
    """Prices of moves, in microbatches.

    Args:
        fill_s: of the plan that holds; one host more or less hardly changes it.
    """

    def __init__(self, instance: Instance, places: Occupancy, policy: Policy, fill_s: float) -> None:
        self._places = places
        self._policy = policy
        self._fill_s = fill_s
        self._work = instance.work
        self._owners_rate = float(instance.owners.rates(instance.work.boundary_bytes).sum())
        self._owners_reduce_s = owners_reduce_s(instance)

    def slowest_reduce_s(self) -> float:
        """Of all stages, as planned."""
        return max(self._places.reduce_s(stage) for stage in range(len(self._places.sizes)))

    def load_s(self, host: Occupant, stage: int) -> float:
        """To fetch a stage's state: over the host's own line, from all that serve the stage."""
        offered = self._places.up_bytes_per_s[stage] or float("inf")
        return self._places.state_bytes(stage) / min(host.claim.down_bytes_per_s, offered)

    def is_admitted(self, host: Occupant, stage: int, reduce_s: float) -> bool:
        """Whether a host brings a stage more than its line costs everybody in the all-reduce.

        Args:
            reduce_s: of the slowest stage without it.
        """
        after_s = max(reduce_s, self._places.reduce_s(stage, host))
        if after_s <= reduce_s:
            return True
        rate = min(self._places.planned)
        # Its fair share: alone it may not raise the slowest stage, but the next hosts then can.
        shared = rate + host.rates[stage] / len(self._places.sizes)
        return self._throughput(shared, after_s) >= self._throughput(rate, reduce_s)

    def fetch(self, host: Occupant, stage: int) -> tuple[float, float]:
        """Seconds until a host would serve a stage, and bytes that it fetches for that."""
        if host.copy == stage and host.copy_whole:
            return self._policy.switch_s, 0.0
        return self.load_s(host, stage), self._places.state_bytes(stage)

    def may_copy(self, host: Occupant, stage: int) -> bool:
        """Whether a host has memory for a copy of another stage, and the lines for the step's gradient of it."""
        places = self._places
        rate = self._throughput(min(places.planned), self.slowest_reduce_s())
        if rate <= 0 or not places.has_room_for_copy(host, stage):
            return False
        step_s = self._work.global_batch / rate
        step_bytes = places.sizes[stage] * self._work.raw_gradient_bytes
        busy = 0.0 if host.stage < 0 else 2 * self._work.boundary_bytes * host.rates[host.stage]
        donors = places.spare_up_bytes_per_s[stage] / (1 + places.num_copies[stage])
        spare = min(host.claim.down_bytes_per_s - busy, donors)
        return step_bytes <= self._policy.copy_line_share * spare * step_s

    def goes_on(self, host: Occupant, stage: int) -> bool:
        """Whether a mover serves its old stage until it has loaded the new one."""
        has_both = host.stage >= 0 and self._places.has_room_for_copy(host, stage)
        return self._policy.serves_while_loading and has_both

    def step_net(self, step: Sequence[tuple[Occupant, int]], totals: Sequence[float], reduce_s: float) -> float:
        """Microbatches that moves made together bring in the end; 0 or less where they do not pay.

        Args:
            step: hosts and their new stages; the first goes to the slowest stage.
            totals: microbatches a second of each stage, to judge by.
            reduce_s: of the slowest all-reduce before.
        """
        after = {each: totals[each] for host, stage in step for each in (stage, host.stage) if each >= 0}
        floor = totals[step[0][1]]
        after_s, loss, slowest_load_s = reduce_s, 0.0, 0.0
        for host, stage in step:
            after[stage] += host.rates[stage]
            if host.stage >= 0:
                after[host.stage] -= host.rates[host.stage]
            after_s = max(after_s, self._places.reduce_s(stage, host))
            load_s, num_bytes = self.fetch(host, stage)
            loss += self._loss(host, stage, load_s, num_bytes, reduce_s)
            slowest_load_s = max(slowest_load_s, load_s)
        before = self._throughput(floor, reduce_s)
        gain = self._throughput(min(after.values()), after_s) - before
        if gain < _LEAST_GAIN * before:
            return 0.0
        paying_s = min(self._policy.horizon_s, self._policy.mean_life_s) - slowest_load_s
        return gain * max(0.0, paying_s) - (1 + _HYSTERESIS) * loss

    def _loss(self, host: Occupant, stage: int, load_s: float, num_bytes: float, reduce_s: float) -> float:
        """Microbatches lost while the host loads: its own stage may become the slowest, donors' lines may be short."""
        places = self._places
        lost = 0.0
        if host.phase is not Phase.STANDBY and not self.goes_on(host, stage):
            slowest = min(places.now)
            left = min(slowest, places.now[host.stage] - host.rates[host.stage])
            lost = (self._throughput(slowest, reduce_s) - self._throughput(left, reduce_s)) * load_s
        short_bytes = num_bytes - places.spare_up_bytes_per_s[stage] * load_s
        return lost + max(0.0, short_bytes) / (2 * self._work.boundary_bytes)

    def _throughput(self, rate: float, reduce_s: float) -> float:
        """Microbatches a second, steps' ends included.

        Args:
            rate: of the slowest stage, microbatches a second.
            reduce_s: of the slowest all-reduce among stages.
        """
        if rate <= 0:
            return 0.0
        batch = self._work.global_batch
        stream_s = batch / min(rate, self._owners_rate) + self._fill_s
        return batch / step_seconds(self._work.staleness, stream_s, max(reduce_s, self._owners_reduce_s))
