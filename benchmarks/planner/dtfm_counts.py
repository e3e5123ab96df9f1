"""DT-FM's cost of stages that are counts of nodes a region, for the search; `dtfm` has the definition over nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.planner.dtfm import Flags, Floats, Ints, Network


def compositions(network: Network) -> Ints:
    """Every possible stage: nodes of each region, one row each."""

    def rows(size: int, counts: list[int]) -> Iterator[tuple[int, ...]]:
        if len(counts) == 1:
            if size <= counts[0]:
                yield (size,)
            return
        for first in range(min(size, counts[0]), -1, -1):
            for rest in rows(size - first, counts[1:]):
                yield (first, *rest)

    return np.array(list(rows(network.stage_nodes, network.counts.tolist())), dtype=np.int64)


def reduce_seconds(network: Network, stages: Ints) -> Floats:
    """The all-reduce of each stage: its slowest member's transfers with all others, one after the other."""
    member_s = stages @ network.reduce_s - np.diag(network.reduce_s)
    slowest: Floats = np.where(stages > 0, member_s, 0.0).max(axis=1)
    return slowest


@dataclass(slots=True)
class PathCosts:
    """Cheapest paths through stages; remembers the hop between any two compositions."""

    network: Network
    known_s: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = field(default_factory=dict)

    def cheapest_s(self, stages: Sequence[tuple[int, ...]]) -> float:
        """The cheapest open path through all stages, by Held and Karp's dynamic programme."""
        count = len(stages)
        hops_s = np.array([[self.hop_s(one, other) for other in stages] for one in stages])
        numbers = np.arange(count)
        ending_s = np.full((1 << count, count), np.inf)
        ending_s[1 << numbers, numbers] = 0.0
        for visited in range(1, 1 << count):
            free = numbers[visited >> numbers & 1 == 0]
            arriving_s = (ending_s[visited][:, None] + hops_s[:, free]).min(axis=0)
            ending_s[visited | 1 << free, free] = np.minimum(ending_s[visited | 1 << free, free], arriving_s)
        return float(ending_s[-1].min())

    def hop_s(self, one: tuple[int, ...], other: tuple[int, ...]) -> float:
        """The smallest possible largest hop of a perfect matching between two stages."""
        key = (one, other) if one <= other else (other, one)
        if key not in self.known_s:
            limits = np.unique(
                self.network.hop_s[np.ix_(np.flatnonzero(np.array(one)), np.flatnonzero(np.array(other)))]
            )
            self.known_s[key] = next(float(limit) for limit in limits if self._matches(one, other, float(limit)))
        return self.known_s[key]

    def _matches(self, one: Sequence[int], other: Sequence[int], limit_s: float) -> bool:
        """Whether nodes can be paired along hops within the limit: augmenting paths over counts."""
        supply, free = list(one), list(other)
        paired = np.zeros((len(one), len(other)), dtype=np.int64)
        near = self.network.hop_s <= limit_s
        for region, nodes in enumerate(supply):
            for _ in range(nodes):
                if not _augment(region, near, free, paired, set()):
                    return False
        return True


def _augment(region: int, near: Flags, free: list[int], paired: Ints, tried: set[int]) -> bool:
    """Pair one more node of a region, moving others' pairs where that helps."""
    for target in np.nonzero(near[region])[0].tolist():
        if target in tried:
            continue
        tried.add(target)
        if free[target]:
            free[target] -= 1
            paired[region, target] += 1
            return True
        for holder in np.nonzero(paired[:, target])[0].tolist():
            if _augment(holder, near, free, paired, tried):
                paired[holder, target] -= 1
                paired[region, target] += 1
                return True
    return False
