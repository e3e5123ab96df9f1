"""No plan of these hosts is faster: an upper bound on tokens per second, to be printed beside every plan.

Fix an interval of all-reduce times. Within it, `relaxation` bounds the rate, and the path (a microbatch through the
empty pipeline and back) at any rate; a step takes at least the batch at that rate, the shortest path, and the shortest
of the all-reduces. Prices come from a linear programme over a sample of the hosts; they are only a help, the bound is
evaluated over all. The interval that allows the shortest step is split, again and again.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np

from scheduler.planner.evaluator import owners_reduce_s, step_seconds
from scheduler.planner.instance import Floats, Instance
from scheduler.planner.relaxation import Prices, Relaxed, Spans, route_shares_s, sample

_SAFE = 1 - 1e-9
"""Against rounding: the bound may be too loose by so much, never too tight."""
_SAMPLE = 192
"""Hosts that the linear programme looks at: prices are those of kinds of hosts, and there are fewer kinds."""
_CLOSE_ENOUGH = 2e-3
"""An interval that is shorter, as a share of its step, is not split; nor are rates improved by less."""
_ROUNDS, _TRIES, _GUESSES = 20, 18, 4
"""Of programmes for one interval; of rates for given prices, the first ones by proportion."""
_RATES = 4
"""Intervals of rates, for each of which the shortest path is bounded."""
_HORIZONS: Floats = 2.0 ** np.arange(-1.0, 3.0, 0.5)
"""For which waits are priced, in the shortest of paths."""
_Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Plans with all-reduces of certain lengths; none has a shorter step.

    Attributes:
        step_s: the bound; first, for the order.
        rate: microbatches a second, at most.
        path_s: at least.
        stages: of each size, in the relaxation; fractions, by size, 0 first.
        prices: of its rows.
        final: the path is bounded, too.
    """

    step_s: float
    sync_s: _Interval
    rate: float
    path_s: float
    final: bool
    stages: Floats = field(compare=False)
    prices: Prices = field(compare=False)


class BoundSearch:
    """Bounds every plan of an instance; can be stopped and continued at any time.

    Source: Lagrangian relaxation, with the all-reduce in hivemind's closed form; the rest is this project's model.
    """

    def __init__(self, instance: Instance, longest_s: float) -> None:
        """Begin.

        Args:
            longest_s: plans with longer steps are of no interest: the bound is not below theirs.
        """
        self._work, self._longest_s = instance.work, longest_s
        self._spans = Spans.of(instance, np.arange(instance.num_hosts))
        rows, self._weight = sample(instance, _SAMPLE)
        self._sample = Spans.of(instance, rows)
        self._owners_s = route_shares_s(instance)[1]
        self._owners_rate = float(instance.owners.rates(instance.work.boundary_bytes).sum())
        self._ends_s = owners_reduce_s(instance)
        self._latency_s = 2 * float(np.diag(instance.regions.latency_s).min())
        self._least_path_s = self._owners_s + instance.work.num_layers * float(
            (self._spans.hop_s / self._spans.layers).min()
        )
        self._horizons_s = _HORIZONS * self._least_path_s
        self._boxes = [self._first()]

    @property
    def weakest(self) -> Box:
        """The interval that allows the shortest step."""
        return self._boxes[0]

    @property
    def tokens_per_s(self) -> float:
        """No plan exceeds it, the known one set aside; valid however few splits were made."""
        tokens = self._work.global_batch * self._work.microbatch_tokens
        return tokens / (min(self._boxes[0].step_s, self._longest_s) * _SAFE)

    def shorten(self, longest_s: float) -> None:
        """A faster plan is known: slower ones are of no interest any more."""
        self._longest_s = min(longest_s, self._longest_s)

    def split(self, times: int, paths: bool) -> None:
        """Split the weakest interval, so many times; more are slower and tighter.

        Args:
            paths: bound paths as well; of use as soon as a good plan is known.
        """
        for _ in range(times):
            weakest = self._boxes[0]
            small = weakest.sync_s[1] - weakest.sync_s[0] < _CLOSE_ENOUGH * weakest.step_s
            priced = weakest.final or not paths
            if weakest.step_s >= self._longest_s or (small and priced):
                return
            heapq.heappop(self._boxes)
            if not priced:
                heapq.heappush(self._boxes, self._with_path(weakest))
                continue
            for sync_s in _cut(weakest.sync_s):
                heapq.heappush(self._boxes, self._box(sync_s, weakest))

    def _first(self) -> Box:
        """All plans of interest."""
        free = Prices(np.zeros(self._work.num_layers + 1), np.zeros(len(_HORIZONS)))
        start = Box(0.0, (0.0, 0.0), self._owners_rate, self._least_path_s, False, free.reduce, free)
        return self._box((0.0, self._longest_s), start)

    def _box(self, sync_s: _Interval, parent: Box) -> Box:
        rate, stages, prices = self._most_rate(sync_s[1], parent)
        step_s = max(self._step_s(sync_s, rate, parent.path_s), parent.step_s)
        return Box(step_s, sync_s, rate, parent.path_s, False, stages, prices)

    def _step_s(self, sync_s: _Interval, rate: float, path_s: float) -> float:
        if rate <= 0:
            return self._longest_s
        compute_s = self._work.global_batch / rate + path_s
        return min(step_seconds(self._work.staleness, compute_s, max(sync_s[0], self._ends_s)), self._longest_s)

    def _relaxed(self, spans: Spans, weight: float, sync_s: float) -> Relaxed:
        return Relaxed(spans, weight, max(sync_s - self._latency_s, 0.0), self._horizons_s)

    def _most_rate(self, sync_s: float, parent: Box) -> tuple[float, Floats, Prices]:
        """No plan has more than this rate, which is 0 where none of interest is possible.

        Newton's method from above: prices at a rate that is too high lead to a lower one that is still too high.
        """
        programme = self._relaxed(self._sample, self._weight, sync_s)
        prices, stages = parent.prices, parent.stages
        rate = self._root(programme, prices, parent.rate)
        for _ in range(_ROUNDS):
            solved = programme.most_layers(rate) if rate > 0 else None
            if solved is None:
                break
            prices, stages = solved.prices, solved.stages
            if solved.layers >= self._work.num_layers * (1 - 2 * _CLOSE_ENOUGH):
                break
            rate = self._root(programme, prices, rate)
        everyone = self._root(self._relaxed(self._spans, 1.0, sync_s), prices, rate)
        return min(everyone, parent.rate), stages, prices

    def _root(self, relaxed: Relaxed, prices: Prices, guess: float) -> float:
        """A rate just too high for the trunk's layers; 0 where every rate of interest is.

        The layers are almost in inverse proportion to the rate; where hosts drop out all at once, halving has to do.
        """
        wanted = self._work.num_layers * _SAFE
        held_layers = relaxed.held_layers(prices)
        least = low = self._work.global_batch / self._longest_s
        high = self._owners_rate
        rate = min(max(guess, least), high)
        for attempt in range(_TRIES):
            held = held_layers(rate)
            following = rate * max(held, 0.0) / wanted * (1 + _CLOSE_ENOUGH / 2)
            if held >= wanted:
                low = rate
            else:
                high = rate
                if following > rate * (1 - _CLOSE_ENOUGH):
                    break
            if high <= low * (1 + _CLOSE_ENOUGH):
                break
            guessed = attempt < _GUESSES and low < following < high
            rate = following if guessed else (low * high) ** 0.5
        return 0.0 if low == least and held_layers(least) < wanted else high

    def _with_path(self, box: Box) -> Box:
        """With the shortest path at rates that are of interest, from the least to the most that is possible."""
        left_s = self._longest_s - (0.0 if self._work.staleness else max(box.sync_s[0], self._ends_s))
        least_rate = self._work.global_batch / max(left_s - box.path_s, 1e-300)
        if box.rate <= least_rate:
            return Box(self._longest_s, box.sync_s, box.rate, box.path_s, True, box.stages, box.prices)
        solved = self._relaxed(self._sample, self._weight, box.sync_s[1]).shortest_path(least_rate)
        if solved is None:
            return Box(box.step_s, box.sync_s, box.rate, box.path_s, True, box.stages, box.prices)
        least_path_s = self._relaxed(self._spans, 1.0, box.sync_s[1]).least_path_s(solved.prices)
        rates = np.linspace(least_rate, box.rate, _RATES + 1).tolist()
        paths_s = [max(box.path_s, self._owners_s + least_path_s(rate)) for rate in rates[:-1]]
        step_s = min(self._step_s(box.sync_s, *each) for each in zip(rates[1:], paths_s, strict=True))
        return Box(max(step_s, box.step_s), box.sync_s, box.rate, paths_s[0], True, box.stages, box.prices)


def _cut(interval: _Interval) -> tuple[_Interval, _Interval]:
    low, high = interval
    middle = float(np.sqrt(max(low, high / 64) * high))
    return (low, middle), (middle, high)
