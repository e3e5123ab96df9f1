"""Shapes worth trying: numbers and sizes of stages with a limit on all-reduces, most promising first by an estimate.

The estimate takes hosts as a fluid: all that can hold a stage's layers and reduce them in time share the work evenly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scheduler.planner.evaluator import host_rates, owners_reduce_s, step_seconds
from scheduler.planner.instance import Flags, Floats, Instance, Ints, Work

_SYNC_POINTS = 16
_SAMPLE = 512
"""Hosts that an estimate looks at."""
_PATH_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """What to fill with hosts.

    Attributes:
        step_s: estimated.
        sizes: layers of each stage, large ones first.
        sync_s: hosts that would reduce their layers more slowly are left out.
        path_s: expected; limits flows by what memory holds in flight.
    """

    step_s: float
    sizes: tuple[int, ...]
    sync_s: float
    path_s: float


def fits(instance: Instance, layers: int, sync_s: float) -> Flags:
    """Hosts that hold so many layers and can reduce them in time."""
    lines = instance.hosts.reduce_bytes_per_s
    in_time: Flags = lines * sync_s >= layers * instance.work.gradient_bytes
    return in_time & (instance.most_layers() >= layers)


def flows(instance: Instance, layers: int, path_s: float) -> Floats:
    """Microbatches a second of each host with so many layers; meaningless where they do not fit."""
    rows = np.arange(instance.num_hosts)
    spans = np.full(instance.num_hosts, layers)
    slots = np.maximum(instance.slots(rows, spans), 1)
    limited: Floats = np.minimum(host_rates(instance, rows, spans), slots / path_s)
    return limited


def shapes(instance: Instance) -> list[Shape]:
    """All equal cuts and all with two sizes, with every limit of a grid; most promising first."""
    sample = _sampled(instance)
    most = int(instance.most_layers().max(initial=0))
    lines = instance.hosts.reduce_bytes_per_s
    least_s = instance.work.gradient_bytes / float(lines.max())
    longest_s = most * instance.work.gradient_bytes / float(lines.min())
    cuts = _cuts(instance, most)
    found: list[Shape] = []
    for sync_s in np.geomspace(least_s, longest_s * 1.001, _SYNC_POINTS).tolist():
        fluids = {layers: _Fluid.of(sample, layers, sync_s) for layers in range(1, most + 1)}
        for (large, small), counts in cuts.items():
            pair = _Pair.of(instance, sample, sync_s, fluids[large], fluids[small])
            found.extend(shape for numbers in counts if (shape := pair.estimate(*numbers)) is not None)
    return sorted(found, key=lambda shape: (shape.step_s, shape.sizes))


def _sampled(instance: Instance) -> Instance:
    """Some of the hosts, evenly over the kinds: enough for an estimate of rates a host."""
    hosts = instance.hosts
    order = np.lexsort((hosts.reduce_bytes_per_s, hosts.layer_s, hosts.memory_bytes))
    rows = order[np.linspace(0, len(order) - 1, min(len(order), _SAMPLE)).round().astype(np.int64)]
    return replace(instance, hosts=hosts.take(rows))


def _cuts(instance: Instance, most: int) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """For two sizes, large and small, every pair of numbers of them that covers the trunk; equal cuts have no large."""
    total, wish = instance.work.num_layers, instance.work.num_stages
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for small in range(1, most + 1):
        for large in range(small, most + 1):
            for num_large in range(1, total // large + 1) if large > small else (0,):
                num_small, rest = divmod(total - num_large * large, small)
                stages = num_large + num_small
                if not rest and num_small and stages <= instance.num_hosts and wish in (0, stages):
                    found.setdefault((large, small), []).append((num_large, num_small))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Fluid:
    """Hosts with a size: flows (0 where it does not fit), and mean times of those who can.

    Attributes:
        hop_s: one stage's share of a route.
        line: bytes/s in an all-reduce.
    """

    layers: int
    flow: Floats
    hop_s: float
    line: float

    @classmethod
    def of(cls, instance: Instance, layers: int, sync_s: float) -> _Fluid:
        hosts, work = instance.hosts, instance.work
        rows: Ints = np.flatnonzero(fits(instance, layers, sync_s))
        flow = np.zeros(instance.num_hosts)
        if not len(rows):
            return cls(layers, flow, 0.0, 1.0)
        hops_s = layers * hosts.layer_s[rows] + hosts.overhead_s[rows]
        hops_s = hops_s + 2 * work.boundary_bytes / hosts.reduce_bytes_per_s[rows]
        hops_s = hops_s + 2 * float(np.diag(instance.regions.latency_s).mean())
        spans = np.full(len(rows), layers)
        rates = host_rates(instance, rows, spans)
        slots = instance.slots(rows, spans)
        limited = rates
        for _ in range(_PATH_ROUNDS):
            hop_s = float((limited * hops_s).sum() / limited.sum())
            limited = np.minimum(rates, slots / (hop_s * work.num_layers / layers))
        flow[rows] = limited
        return cls(layers, flow, hop_s, float(hosts.reduce_bytes_per_s[rows].mean()))


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two sizes: hosts sorted by how much better they do with the large one.

    Attributes:
        large_flow: of the first n hosts together, with the large size.
        small_flow: of the rest, with the small size.
    """

    work: Work
    sync_s: float
    large: _Fluid
    small: _Fluid
    large_flow: Floats
    small_flow: Floats
    num_hosts: float
    owners_rate: float
    owners_sync_s: float

    @classmethod
    def of(cls, instance: Instance, sample: Instance, sync_s: float, large: _Fluid, small: _Fluid) -> _Pair:
        weight = instance.num_hosts / sample.num_hosts
        order = np.argsort(-preference(large.flow, small.flow), kind="stable")
        return cls(
            instance.work,
            sync_s,
            large,
            small,
            weight * np.cumsum(large.flow[order]),
            weight * np.cumsum(small.flow[order][::-1])[::-1],
            weight * float(np.count_nonzero(np.maximum(large.flow, small.flow))),
            float(instance.owners.rates(instance.work.boundary_bytes).sum()),
            owners_reduce_s(instance),
        )

    def estimate(self, num_large: int, num_small: int) -> Shape | None:
        """Of so many stages of each size."""
        work, stages = self.work, num_large + num_small
        if self.num_hosts < stages:
            return None
        rate = float(self.small_flow[0]) / num_small
        if num_large:
            rate = float(np.minimum(self.large_flow[:-1] / num_large, self.small_flow[1:] / num_small).max(initial=0.0))
        rate = min(rate, self.owners_rate)
        if rate <= 0:
            return None
        path_s = num_large * self.large.hop_s + num_small * self.small.hop_s
        largest = self.large if num_large else self.small
        spread_s = 2 * (1 - stages / self.num_hosts) * largest.layers * work.gradient_bytes / largest.line
        reduce_s = max(spread_s, self.sync_s if self.num_hosts > stages else 0.0, self.owners_sync_s)
        step_s = step_seconds(work.staleness, work.global_batch / rate + path_s, reduce_s)
        sizes = (self.large.layers,) * num_large + (self.small.layers,) * num_small
        return Shape(step_s, sizes, self.sync_s, path_s)


def preference(large_flow: Floats, small_flow: Floats) -> Floats:
    """How much better hosts do with the large size: those with the most of it take it, the exchange being at the same
    rate for all (the fractional optimum for two sizes). Hosts that fit neither come last.
    """
    ratio: Floats = np.where(small_flow > 0, large_flow / np.maximum(small_flow, 1e-300), np.inf)
    return np.where(large_flow > 0, ratio, 0.0)
