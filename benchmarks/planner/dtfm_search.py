"""DT-FM's placement problem solved to proven optimality: branch and bound over counts of nodes a region.

Nodes of a region are alike, so a stage is a composition: how many nodes of each region. The search covers the nodes
stage by stage. Its bound rests on one fact: a matching between two stages whose hops all cost at most t can only pair
nodes inside a connected component of the regions' graph of hops <= t, so both stages hold equally many nodes of every
component. At each level t, stages thus fall into classes, a path through all of them has at least (classes - 1) hops
dearer than t, and every further stage can only add classes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse.csgraph import connected_components

from benchmarks.planner.dtfm import Flags, Floats, Ints, Network
from benchmarks.planner.dtfm_counts import PathCosts, compositions, reduce_seconds

_TOLERANCE_S = 1e-9
"""A partition has to be better by so much to count; far below a byte's time."""
_LIMIT_GROWTH = 1.1
"""From one search that found nothing to the next."""


@dataclass(frozen=True, slots=True)
class Solution:
    """An optimal partition.

    Attributes:
        cost_s: DT-FM's cost.
        compositions: nodes of each region, one row a stage.
        nodes: of the search tree; the bound excludes everything outside it.
    """

    cost_s: float
    compositions: tuple[tuple[int, ...], ...]
    nodes: int


def solve(network: Network) -> Solution:
    """Find a partition of least cost; exhausts the bound, so the answer is optimal."""
    search = _Search(network)
    search.start()
    return Solution(search.best_s, search.best, search.nodes)


@dataclass(slots=True)
class _Level:
    """Hops up to one cost.

    Attributes:
        extra_s: what a dearer hop costs more, at least, than one of this level.
        sums: compositions x components; nodes of each component.
        classes: compositions; equal numbers for equal sums.
        alone: nodes that can be matched with nothing at this level, for each composition; a stage that holds one is
            a class of its own.
        lonely: regions; those nodes' regions.
        labels: component of each region.
    """

    extra_s: float
    sums: Ints
    classes: Ints
    alone: Ints
    lonely: Flags
    labels: Ints

    def total(self, regions: Ints) -> Ints:
        """Nodes of each component."""
        return np.bincount(self.labels, weights=regions, minlength=self.sums.shape[1]).astype(np.int64)


def _levels(network: Network, stages: Ints) -> list[_Level]:
    costs = np.unique(network.hop_s)
    found: list[_Level] = []
    for cost_s, next_s in itertools.pairwise(costs):
        linked = network.hop_s <= cost_s
        count, labels = connected_components(linked, directed=False)
        lonely = ~linked.any(axis=1)
        if found and np.array_equal(labels, found[-1].labels) and np.array_equal(lonely, found[-1].lonely):
            found[-1].extra_s += float(next_s - cost_s)
        elif count > 1 or lonely.any():
            sums = np.stack([stages[:, labels == label].sum(axis=1) for label in range(count)], axis=1)
            classes = np.unique(sums, axis=0, return_inverse=True)[1].reshape(-1)
            alone = stages[:, lonely].sum(axis=1)
            found.append(_Level(float(next_s - cost_s), sums, classes, alone, lonely, labels.astype(np.int64)))
    return found


def _symmetric_pairs(network: Network) -> list[tuple[int, int]]:
    """Pairs of regions that can swap names: each with the next one like it."""
    pairs: list[tuple[int, int]] = []
    for one in range(len(network.counts)):
        for other in range(one + 1, len(network.counts)):
            if _alike(network, one, other):
                pairs.append((one, other))
                break
    return pairs


def _alike(network: Network, one: int, other: int) -> bool:
    swapped = np.arange(len(network.counts))
    swapped[[one, other]] = other, one
    return network.counts[one] == network.counts[other] and all(
        np.array_equal(costs, costs[np.ix_(swapped, swapped)]) for costs in (network.reduce_s, network.hop_s)
    )


@dataclass(slots=True)
class _Partial:
    """Some stages, chosen, and what follows for each level.

    Attributes:
        stages: composition numbers, sorted, with repeats.
        left: nodes of each region that have no stage yet.
        reduce_s: the slowest all-reduce so far.
        num_classes: so far.
        seen: classes so far; a flag for each.
        low, high: the least and the most nodes of each component in a stage so far.
        candidates: composition numbers that may still be chosen.
    """

    stages: tuple[int, ...]
    left: Ints
    reduce_s: float
    num_classes: list[int]
    seen: list[Flags]
    low: list[Ints]
    high: list[Ints]
    candidates: Ints


@dataclass(slots=True)
class _Search:
    """State of one search."""

    network: Network
    compositions: Ints = field(init=False)
    reduce_s: Floats = field(init=False)
    levels: list[_Level] = field(init=False)
    symmetric: list[tuple[int, int]] = field(init=False)
    paths: PathCosts = field(init=False)
    best_s: float = float("inf")
    best: tuple[tuple[int, ...], ...] = ()
    nodes: int = 0
    done: set[tuple[int, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.compositions = compositions(self.network)
        self.reduce_s = reduce_seconds(self.network, self.compositions)
        self.levels = _levels(self.network, self.compositions)
        self.symmetric = _symmetric_pairs(self.network)
        self.paths = PathCosts(self.network)

    def start(self) -> None:
        """Try equal shares of every region, where they are whole; then search below a limit that rises until it holds.

        A search without a limit would go deep into bad partitions before it finds a good one.
        """
        share, rest = np.divmod(self.network.counts, self.network.num_stages)
        if not rest.any():
            self._finish((tuple(share.tolist()),) * self.network.num_stages)
        root = self._root()
        limit_s = self.best_s if self.best else float(self._bounds_s(root, root.candidates, 1).min()) * _LIMIT_GROWTH
        while True:
            self.best_s = limit_s
            self._explore(root)
            if self.best:
                return
            limit_s *= _LIMIT_GROWTH
            self.done.clear()

    def _root(self) -> _Partial:
        far = np.iinfo(np.int64).max // (2 * self.network.num_stages)
        return _Partial(
            (),
            self.network.counts,
            0.0,
            [0 for _ in self.levels],
            [np.zeros(level.classes.max() + 1, dtype=np.bool_) for level in self.levels],
            [np.full(level.sums.shape[1], far) for level in self.levels],
            [np.zeros(level.sums.shape[1], dtype=np.int64) for level in self.levels],
            np.arange(len(self.compositions)),
        )

    def _finish(self, stages: tuple[tuple[int, ...], ...]) -> None:
        reduce_s = float(reduce_seconds(self.network, np.array(stages)).max())
        cost_s = reduce_s + 2 * self.paths.cheapest_s(stages)
        if cost_s < self.best_s - _TOLERANCE_S:
            self.best_s, self.best = cost_s, stages

    def _explore(self, partial: _Partial) -> None:
        """All partitions that hold these stages and no further copy of one of them."""
        self.nodes += 1
        if len(partial.stages) == self.network.num_stages:
            self._finish(tuple(tuple(self.compositions[stage].tolist()) for stage in partial.stages))
            return
        fitting = partial.candidates[(self.compositions[partial.candidates] <= partial.left).all(axis=1)]
        bounds_s = self._bounds_s(partial, fitting, 1)
        within = bounds_s < self.best_s - _TOLERANCE_S
        fitting = fitting[within]
        for bound_s, composition, copies in self._choices(partial, fitting, bounds_s[within]):
            if bound_s >= self.best_s - _TOLERANCE_S:
                break
            stages = tuple(sorted(partial.stages + (composition,) * copies))
            if stages not in self.done:
                self.done.add(stages)
                self._explore(self._child(partial, stages, fitting, composition, copies))

    def _choices(self, partial: _Partial, fitting: Ints, bounds_s: Floats) -> list[tuple[float, int, int]]:
        """Every way to cover one more region: (bound, composition, copies), most promising first.

        Args:
            bounds_s: of one copy of each of `fitting`.
        """
        if not len(fitting):
            return []
        region = self._region(partial, fitting)
        rows = self.compositions[fitting]
        chosen = self.compositions[list(partial.stages)]
        keep = rows[:, region] > 0
        for one, other in self.symmetric:
            # Regions alike in the network and in all stages so far: the rest can be renamed to be in order.
            if np.array_equal(chosen[:, one], chosen[:, other]):
                keep &= rows[:, one] >= rows[:, other]
        covering, bounds_s = fitting[keep], bounds_s[keep]
        found: list[tuple[float, int, int]] = []
        for copies in range(1, self.network.num_stages - len(partial.stages) + 1):
            if copies > 1:
                covering = covering[(copies * self.compositions[covering] <= partial.left).all(axis=1)]
                bounds_s = self._bounds_s(partial, covering, copies)
            found.extend(
                (bound_s, number, copies)
                for bound_s, number in zip(bounds_s.tolist(), covering.tolist(), strict=True)
                if bound_s < self.best_s - _TOLERANCE_S
            )
            if not len(covering):
                break
        return sorted(found)

    def _region(self, partial: _Partial, fitting: Ints) -> int:
        """The region that the fewest compositions can cover; the first of those, which suits the order by symmetry."""
        covering = (self.compositions[fitting] > 0).sum(axis=0)
        return int(np.where(partial.left > 0, covering, len(self.compositions) + 1).argmin())

    def _child(self, partial: _Partial, stages: tuple[int, ...], fitting: Ints, number: int, copies: int) -> _Partial:
        num_classes, seen = [], []
        for level, count, flags in zip(self.levels, partial.num_classes, partial.seen, strict=True):
            own_class = level.classes[number]
            num_classes.append(count + (copies if level.alone[number] else int(not flags[own_class])))
            flags = flags.copy()
            flags[own_class] = True
            seen.append(flags)
        sums = [level.sums[number] for level in self.levels]
        return _Partial(
            stages=stages,
            left=partial.left - copies * self.compositions[number],
            reduce_s=max(partial.reduce_s, float(self.reduce_s[number])),
            num_classes=num_classes,
            seen=seen,
            low=[np.minimum(low, own) for low, own in zip(partial.low, sums, strict=True)],
            high=[np.maximum(high, own) for high, own in zip(partial.high, sums, strict=True)],
            candidates=fitting[fitting != number],
        )

    def _bounds_s(self, partial: _Partial, numbers: Ints, copies: int) -> Floats:
        """No partition with these stages and `copies` of one of these compositions costs less; one bound for each."""
        network = self.network
        stages_left = network.num_stages - len(partial.stages) - copies
        bounds_s = np.full(len(numbers), 2 * (network.num_stages - 1) * float(network.hop_s.min()))
        bounds_s += np.maximum(partial.reduce_s, self.reduce_s[numbers])
        for index, level in enumerate(self.levels):
            new = np.where(level.alone[numbers] > 0, copies, ~partial.seen[index][level.classes[numbers]])
            bounds_s += 2 * level.extra_s * (partial.num_classes[index] + new - 1)
        open_ones = np.nonzero(bounds_s < self.best_s - _TOLERANCE_S)[0]
        if stages_left:
            for index, level in enumerate(self.levels):
                more = self._more_classes(partial, index, numbers[open_ones], copies, stages_left)
                bounds_s[open_ones] += 2 * level.extra_s * more
                open_ones = open_ones[bounds_s[open_ones] < self.best_s - _TOLERANCE_S]
        return bounds_s

    def _more_classes(self, partial: _Partial, index: int, numbers: Ints, copies: int, stages_left: int) -> Ints:
        """Classes that the nodes left over will add at least, at a level."""
        level = self.levels[index]
        sums = level.sums[numbers]
        rest = level.total(partial.left) - copies * sums
        # Stages of classes known by now hold between the least and the most so far of every component.
        low, high = np.minimum(partial.low[index], sums), np.maximum(partial.high[index], sums)
        outside = ((rest < stages_left * low) | (rest > stages_left * high)).any(axis=1)
        lonely = int(partial.left[level.lonely].sum()) - copies * level.alone[numbers]
        more: Ints = np.maximum(outside, -(-lonely // self.network.stage_nodes))
        return more
