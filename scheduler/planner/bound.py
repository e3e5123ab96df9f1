"""No plan of these hosts is faster: an upper bound on tokens per second, to be printed beside every plan.

Fix an interval of all-reduce times. Within it, `relaxation` bounds the rate, and the path (a microbatch through the
empty pipeline and back) at any rate; a step takes at least the batch at that rate, the shortest path, and the shortest
of the all-reduces. Prices come from a linear programme over groups of hosts; they are only a help, the bound is
evaluated over all. The interval that allows the shortest step is split, again and again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.planner.counts import Counts
from scheduler.planner.drift import Drift, ThinLinks
from scheduler.planner.evaluator import owners_reduce_s, step_seconds
from scheduler.planner.instance import Floats, Instance, Ints
from scheduler.planner.kinds import groups
from scheduler.planner.relaxation import Prices, Relaxed
from scheduler.planner.shapes import Sizes
from scheduler.planner.spans import Spans, mean_ends_s, route_shares_s
from scheduler.planner.whole_hosts import WholeHosts

_SAFE = 1 - 1e-9
"""Against rounding: the bound may be too loose by so much, never too tight."""
_GROUPS = 192
"""Of hosts alike; what the linear programme looks at: prices are those of kinds of hosts."""
_CLOSE_ENOUGH = 2e-3
"""An interval that is shorter, as a share of its step, is not split; nor are rates improved by less."""
_ROUNDS, _TRIES, _GUESSES = 20, 18, 4
"""Of programmes for one interval; of rates for given prices, the first ones by proportion."""
_MARGINS = (-0.03, -0.015, -0.005, 0.0)
"""Of a rate: prices that cut off at a lower one hold against hosts that are not quite like their groups' means."""
_APART = 1.06
"""Lengths of all-reduces that are not about the same."""
_NARROW = 0.01
"""Intervals no longer than this, as a share of their step, get a rate for whole numbers of stages."""
_RATES = 4
"""Intervals of rates, for each of which the shortest path is bounded."""
_CROSSING_RATES, _CROSSING_PROGRAMMES = 24, 4
"""As `_RATES`, where links are thin; and programmes for prices at some of them."""
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
        sizes: of stages, in whole numbers, for which a rate only just below might do.
        whole: whole numbers of stages were tried; where the interval is narrow, the rate is one for those.
        final: the path is bounded, too.
        placed: whole hosts were tried as far as there were nodes left.
    """

    step_s: float
    sync_s: _Interval
    rate: float
    path_s: float
    whole: bool
    final: bool
    placed: bool
    stages: Floats = field(compare=False)
    prices: Prices = field(compare=False)
    sizes: tuple[int, ...] = field(compare=False, default=())


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
        self._num_hosts = instance.num_hosts
        # Where all-reduces overlap the rest, it does not matter how long they are, as long as they are shorter.
        self._narrow = np.inf if instance.work.staleness else _NARROW
        self._spans = Spans.of(instance, np.arange(instance.num_hosts))
        self._group, self._members = groups(instance, _GROUPS)
        self._ones = np.ones(instance.num_hosts)
        self._in_groups: dict[float, Relaxed] = {}
        self._few = len(self._members) == instance.num_hosts
        self._owners_s = route_shares_s(instance)[1]
        owners_rate = float(instance.owners.rates(instance.work.boundary_bytes).sum())
        self._most_possible = min(owners_rate, _first_stage_rate(instance, self._spans))
        self._ends_s = owners_reduce_s(instance)
        self._latency_s = 2 * float(np.diag(instance.regions.latency_s).min())
        self._least_path_s = self._owners_s + instance.work.num_layers * float(
            (self._spans.hop_s / self._spans.layers).min()
        )
        self._horizons_s = _HORIZONS * self._least_path_s
        self._links = ThinLinks(instance)
        self._ends_mean_s = mean_ends_s(instance)
        bare_s = self._spans.hop_s - route_shares_s(instance)[0][self._spans.host]
        self._bare = replace(self._spans, hop_s=bare_s, last_s=self._ends_mean_s / 2)
        self._bare_path_s = self._ends_mean_s + instance.work.num_layers * float((bare_s / self._spans.layers).min())
        self._counts = Counts(instance)
        self._boxes = [self._first()]

    @property
    def weakest(self) -> Box:
        """The interval that allows the shortest step."""
        return self._boxes[0]

    def weak(self, most: int) -> list[Box]:
        """Of the intervals, those that allow the shortest steps, weakest first, not two with about the same lengths."""
        found: list[Box] = []
        for box in sorted(self._boxes):
            near = any(1 / _APART < box.sync_s[1] / each.sync_s[1] < _APART for each in found)
            if len(found) < most and not near:
                found.append(box)
        return found

    def promising(self, most: int) -> list[Box]:
        """Intervals for which whole numbers of stages are known, weakest first.

        Args:
            most: weak intervals for which they are found, where they were not tried yet.
        """
        for box in self.weak(most):
            if not box.whole and box.step_s < self._longest_s:
                self._boxes[self._boxes.index(box)] = self._with_whole(box)
        heapq.heapify(self._boxes)
        return [box for box in sorted(self._boxes) if box.sizes and box.step_s < self._longest_s]

    @property
    def is_done(self) -> bool:
        """Whether no plan of interest is left."""
        return self.weakest.step_s >= self._longest_s

    @property
    def tokens_per_s(self) -> float:
        """No plan exceeds it, the known one set aside; valid however few splits were made."""
        tokens = self._work.global_batch * self._work.microbatch_tokens
        return tokens / (min(self._boxes[0].step_s, self._longest_s) * _SAFE)

    def shorten(self, longest_s: float) -> None:
        """Plans with longer steps are of no interest any more: a faster one, or one that is hardly slower, is known."""
        self._longest_s = min(longest_s, self._longest_s)

    def split(self, times: int, paths: bool) -> None:
        """Split the weakest interval, so many times, while plans of interest are left; more are slower and tighter.

        Args:
            paths: bound paths as well, and count stages in whole numbers; of use as soon as a good plan is known.
        """
        for _ in range(times):
            weakest = self._boxes[0]
            width = _width(weakest)
            priced = weakest.final or not paths
            if self.is_done or (width < _CLOSE_ENOUGH and priced):
                return
            if priced:
                self._split(weakest)
            else:
                priced_box = self._with_path(weakest) if weakest.whole else self._with_whole(weakest)
                heapq.heapreplace(self._boxes, priced_box)

    def place(self, nodes: int, offer: Callable[[Ints, Sizes], float], out_of_time: Callable[[], bool]) -> None:
        """Ask for whole hosts in the weakest intervals, while plans of interest are left.

        Args:
            nodes: of integer programmes' searches.
            offer: is given the stages of all hosts, and their sizes, in any order, of plans that might be of interest;
                returns the length from which on steps are of no interest any more.
            out_of_time: asked between programmes.
        """
        places = WholeHosts(self._counts, self._num_hosts, nodes, offer)
        while not self.is_done and places.left > 0 and not out_of_time():
            weakest = self._boxes[0]
            if not weakest.whole:
                heapq.heapreplace(self._boxes, self._with_whole(weakest))
            elif not weakest.final:
                heapq.heapreplace(self._boxes, self._with_path(weakest))
            elif not weakest.placed:
                heapq.heapreplace(self._boxes, self._with_hosts(weakest, places, out_of_time))
                self.shorten(places.longest_s)
            elif _width(weakest) < _CLOSE_ENOUGH:
                return
            else:
                self._split(weakest)

    def _split(self, weakest: Box) -> None:
        lower, upper = _cut(weakest.sync_s)
        heapq.heapreplace(self._boxes, self._box(lower, weakest))
        # Its longest all-reduces are the same, and so is its rate.
        step_s = self._step_s(upper, weakest.rate, weakest.path_s)
        whole = weakest.whole and _width(weakest) <= self._narrow
        same = replace(weakest, step_s=max(step_s, weakest.step_s), sync_s=upper, whole=whole, final=False)
        heapq.heappush(self._boxes, same)

    def _first(self) -> Box:
        """All plans of interest."""
        none = np.zeros(self._work.num_layers + 1)
        layers = np.arange(len(none), dtype=np.float64)
        free = Prices(none, np.zeros(len(_HORIZONS)), layers, np.zeros((len(none), 1)))
        start = Box(0.0, (0.0, 0.0), self._most_possible, self._least_path_s, False, False, False, none, free)
        return self._box((0.0, self._longest_s), start)

    def _box(self, sync_s: _Interval, parent: Box) -> Box:
        rate, stages, prices = self._most_rate(sync_s, parent)
        step_s = max(self._step_s(sync_s, rate, parent.path_s), parent.step_s)
        return Box(step_s, sync_s, rate, parent.path_s, False, False, False, stages, prices)

    def _step_s(self, sync_s: _Interval, rate: float, path_s: float) -> float:
        if rate <= 0:
            return self._longest_s
        compute_s = self._work.global_batch / rate + path_s
        return min(step_seconds(self._work.staleness, compute_s, max(sync_s[0], self._ends_s)), self._longest_s)

    def _drift(self, sync_s: _Interval, rate: float) -> Drift | None:
        """Of plans of interest with rates up to this; of many hosts, those of each region are alike on the average."""
        if not self._few or rate <= 0:
            return None
        reduced_s = 0.0 if self._work.staleness else max(sync_s[0], self._ends_s)
        return self._links.drift(self._longest_s - reduced_s - self._work.global_batch / rate - self._bare_path_s)

    def _everyone(self, sync_s: float, drift: Drift | None) -> Relaxed:
        """All hosts, at rates of interest."""
        sync_s = max(sync_s - self._latency_s, 0.0)
        # With what crosses thin links, the other transfers are left out of paths.
        spans = self._bare if drift is not None and drift.path_s.any() else self._spans
        # The others cannot be alone in a stage either.
        of_use = spans.in_time(sync_s) | (spans.rates >= self._work.global_batch / self._longest_s)
        return Relaxed(spans.take(of_use), self._ones, sync_s, self._horizons_s, drift)

    def _grouped(self, sync_s: float, drift: Drift | None) -> Relaxed:
        """What prices are found with; not a bound. Hosts of large swarms are not worth being alone in a stage."""
        if self._few:
            return self._everyone(sync_s, drift)
        if sync_s not in self._in_groups:
            limit_s = max(sync_s - self._latency_s, 0.0)
            spans = self._spans.take(self._spans.in_time(limit_s)).grouped(self._group, self._members)
            self._in_groups[sync_s] = Relaxed(spans, self._members, limit_s, self._horizons_s)
        return self._in_groups[sync_s]

    def _most_rate(self, sync_s: _Interval, parent: Box) -> tuple[float, Floats, Prices]:
        """No plan has more than this rate, which is 0 where none of interest is possible.

        Newton's method from above: prices at a rate that is too high lead to a lower one that is still too high.
        """
        drift = self._drift(sync_s, parent.rate)
        programme = self._grouped(sync_s[1], drift)
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
        everyone = self._root(self._everyone(sync_s[1], drift), prices, rate)
        return min(everyone, parent.rate), stages, prices

    def _root(self, relaxed: Relaxed, prices: Prices, guess: float) -> float:
        """A rate just too high for the trunk's layers; 0 where every rate of interest is.

        The layers are almost in inverse proportion to the rate; where hosts drop out all at once, halving has to do.
        """
        wanted = self._work.num_layers * _SAFE
        held_layers = relaxed.most_worth(prices)
        least = low = self._work.global_batch / self._longest_s
        high = self._most_possible
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

    def _least_rate(self, box: Box) -> float:
        """Plans with a lower one are of no interest."""
        left_s = self._longest_s - (0.0 if self._work.staleness else max(box.sync_s[0], self._ends_s))
        return self._work.global_batch / max(left_s - box.path_s, 1e-300)

    def _with_whole(self, box: Box) -> Box:
        """With a rate that is too high for whole numbers of stages."""
        drift = self._drift(box.sync_s, box.rate)
        part = self._grouped(box.sync_s[1], drift)
        row = -1

        def is_too_high(rate: float) -> bool:
            nonlocal row
            found = self._counts.possible(part, part, rate, box.stages)
            row = row if found < 0 else found
            return found < 0

        # A wide interval is either of no interest at all or split: its own rate is not worth the programmes.
        close = 2 * _CLOSE_ENOUGH if _width(box) <= self._narrow else np.inf
        rate = self._too_high(self._least_rate(box), box.rate, close, is_too_high)
        if rate < box.rate and not self._few:
            everyone = self._everyone(box.sync_s[1], drift)
            known = self._counts.enough(part, [rate * (1 + more) for more in _MARGINS])
            step = _CLOSE_ENOUGH
            while rate < box.rate and self._counts.possible(everyone, part, rate, box.stages, known) >= 0:
                rate, step = min(rate * (1 + step), box.rate), 1.5 * step
        step_s = max(self._step_s(box.sync_s, rate, box.path_s), box.step_s)
        return replace(box, step_s=step_s, rate=rate, whole=True, sizes=self._counts.sizes(row))

    def _with_hosts(self, box: Box, places: WholeHosts, out_of_time: Callable[[], bool]) -> Box:
        """With a rate that is too high for whole hosts."""
        sync_s = box.sync_s[1]
        drift = self._drift(box.sync_s, box.rate)
        rate = places.most_rate(self._everyone(sync_s, drift), sync_s, self._least_rate(box), box.rate, out_of_time)
        step_s = max(self._step_s(box.sync_s, rate, box.path_s), box.step_s)
        return replace(box, step_s=step_s, rate=rate, placed=True)

    def _too_high(self, low: float, high: float, close: float, is_too_high: Callable[[float], bool]) -> float:
        """A rate that is too high: the lowest, or above it by a share at most, from the low one on; the high one is."""
        if high <= low or is_too_high(low):
            return min(low, high)
        while high > low * (1 + close):
            middle = (low * high) ** 0.5
            if is_too_high(middle):
                high = middle
            else:
                low = middle
        return high

    def _with_path(self, box: Box) -> Box:
        """With the shortest path at rates that are of interest, from the least to the most that is possible."""
        least_rate = self._least_rate(box)
        if box.rate <= least_rate:
            return replace(box, step_s=self._longest_s, final=True)
        drift = self._drift(box.sync_s, box.rate)
        solved = self._grouped(box.sync_s[1], drift).shortest_path(least_rate)
        if solved is None:
            return replace(box, final=True)
        least_path_s = self._everyone(box.sync_s[1], drift).least_path_s(solved.prices)
        rates = np.linspace(least_rate, box.rate, _RATES + 1).tolist()
        paths_s = [max(box.path_s, self._owners_s + least_path_s(rate)) for rate in rates[:-1]]
        step_s = min(self._step_s(box.sync_s, *each) for each in zip(rates[1:], paths_s, strict=True))
        if drift is not None:
            step_s = max(step_s, self._crossing_step_s(box, least_rate, self._links.on_path(drift)))
        return replace(box, step_s=max(step_s, box.step_s), path_s=paths_s[0], final=True)

    def _crossing_step_s(self, box: Box, least_rate: float, drift: Drift) -> float:
        """No plan of interest has a shorter step, with what crosses thin links on its path: the faster, the more."""
        relaxed = self._everyone(box.sync_s[1], drift)
        rates = np.linspace(least_rate, box.rate, _CROSSING_RATES + 1)
        paths_s = np.full(_CROSSING_RATES, box.path_s)
        for rate in rates[:: _CROSSING_RATES // _CROSSING_PROGRAMMES].tolist():
            solved = relaxed.shortest_path(rate)
            if solved is not None:
                least_path_s = relaxed.least_path_s(solved.prices)
                found_s = [self._ends_mean_s + least_path_s(each) for each in rates[:-1].tolist()]
                paths_s = np.maximum(paths_s, found_s)
        return min(self._step_s(box.sync_s, *each) for each in zip(rates[1:].tolist(), paths_s.tolist(), strict=True))


def _first_stage_rate(instance: Instance, spans: Spans) -> float:
    """What memory allows the first stage, which keeps graphs for as long as all stages take; others need hosts, too."""
    most, layers = instance.most_layers(), instance.work.num_layers
    able = np.flatnonzero(most > 0)
    fewest = int(np.searchsorted(np.cumsum(np.sort(most)[::-1]), layers)) + 1
    if fewest > len(able):
        return 0.0
    # It holds what the others cannot.
    size = max(1, layers - int(most.sum() - most[able].min()))
    able = able[most[able] >= size]
    slots = np.sort(instance.slots(able, np.full(len(able), size)))[::-1][: instance.num_hosts - fewest + 1]
    # Half of a host's transfers come before its stage.
    after_s = spans.hop_s - route_shares_s(instance)[0][spans.host] / 2
    return float(slots.sum()) / (spans.last_s + layers * float((after_s / spans.layers).min()))


def _width(box: Box) -> float:
    """Of its interval, as a share of its step."""
    return (box.sync_s[1] - box.sync_s[0]) / box.step_s


def _cut(interval: _Interval) -> tuple[_Interval, _Interval]:
    low, high = interval
    middle = float(np.sqrt(max(low, high / 64) * high))
    return (low, middle), (middle, high)
