"""Hosts with every span that their memory holds, and what each adds to a route; bound and shapes choose from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.planner.evaluator import host_rates
from scheduler.planner.instance import Flags, Floats, Instance, Ints
from scheduler.planner.links import separate


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """Hosts with every span their memory holds; one entry each, host by host.

    Attributes:
        host: 0, 1, ..., ascending.
        layers: of the span.
        rates: microbatches a second.
        lines: bytes/s in an all-reduce.
        need_bytes: gradient bytes, twice.
        hop_s: what it adds to a route's time.
        slots: microbatches in flight.
        group: of regions that thin links divide.
        size_bytes: gradient bytes of each size, twice, 0 first, up to the trunk's.
        last_s: of every path, from its last host to the owner and back.
    """

    host: Ints
    layers: Ints
    rates: Floats
    lines: Floats
    need_bytes: Floats
    hop_s: Floats
    slots: Floats
    group: Ints
    size_bytes: Floats
    last_s: float

    def in_time(self, sync_s: float) -> Flags:
        """Which could reduce in so many seconds with others."""
        return self.need_bytes <= 2 * sync_s * self.lines

    @property
    def num_layers(self) -> int:
        """Of the trunk."""
        return len(self.size_bytes) - 1

    @classmethod
    def of(cls, instance: Instance, hosts: Ints) -> Spans:
        """Lay out the spans of some hosts, by row."""
        work = instance.work
        most = instance.most_layers()[hosts]
        host = np.repeat(np.arange(len(hosts)), most)
        layers = np.arange(len(host)) - np.repeat(np.cumsum(most) - most, most) + 1
        rows = hosts[host]
        share_s, owners_s = route_shares_s(instance)
        size_bytes: Floats = 2 * work.gradient_bytes * np.arange(work.num_layers + 1, dtype=np.float64)
        return cls(
            host=host,
            layers=layers,
            rates=np.minimum(host_rates(instance, rows, layers), _kept_rates(instance, rows, layers)),
            lines=instance.hosts.reduce_bytes_per_s[rows],
            need_bytes=size_bytes[layers],
            hop_s=layers * instance.hosts.layer_s[rows] + (instance.hosts.overhead_s + share_s)[rows],
            slots=instance.slots(rows, layers).astype(np.float64),
            group=separate(instance)[instance.hosts.region][rows],
            size_bytes=size_bytes,
            # The ends, and one of the two ways between owners and hosts.
            last_s=(owners_s + mean_ends_s(instance)) / 2,
        )

    def take(self, keep: Flags | Ints) -> Spans:
        """Some of the entries."""
        keep = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        return Spans(
            self.host[keep],
            self.layers[keep],
            self.rates[keep],
            self.lines[keep],
            self.need_bytes[keep],
            self.hop_s[keep],
            self.slots[keep],
            self.group[keep],
            self.size_bytes,
            self.last_s,
        )

    def grouped(self, group: Ints, members: Floats) -> Spans:
        """Groups of hosts, as hosts that do what their members do on the average, those without the span included;
        their regions are forgotten.

        Args:
            group: of each host, 0, 1, ....
            members: of each group.
        """
        width = self.num_layers + 1
        key = group[self.host] * width + self.layers
        counts = np.bincount(key)
        columns = np.flatnonzero(counts)

        def mean(values: Floats, over: Floats) -> Floats:
            return np.bincount(key, weights=values)[columns] / over

        all_members = members[columns // width]
        return Spans(
            columns // width,
            columns % width,
            mean(self.rates, all_members),
            mean(self.lines, all_members),
            mean(self.need_bytes, all_members),
            mean(self.hop_s, counts[columns].astype(np.float64)),
            mean(self.slots, all_members),
            np.zeros(len(columns), dtype=np.int64),
            self.size_bytes,
            self.last_s,
        )


def _kept_rates(instance: Instance, host: Ints, layers: Ints) -> Floats:
    """What memory for graphs allows if a stage keeps each no longer than its own fastest hosts compute."""
    hosts = instance.hosts
    least_s = layers * hosts.layer_s.min() + hosts.overhead_s.min() + 2 * instance.regions.latency_s.min()
    kept: Floats = instance.slots(host, layers) / np.maximum(least_s, 1e-300)
    return kept


def mean_ends_s(instance: Instance) -> float:
    """Of the owners, by their rates."""
    weights = instance.owners.rates(instance.work.boundary_bytes)
    return float((weights * instance.owners.ends_s).sum() / weights.sum())


def route_shares_s(instance: Instance) -> tuple[Floats, float]:
    """A lower bound of each host's share of a route's transfers and latencies, and that of the owners, ends included.

    A transfer takes as long as the slower end's line; it is charged to the end whose lines are slower on the whole.
    A latency is charged to both ends by halves, and is at least that to the nearest region.
    """
    hosts, owners, boundary_bytes = instance.hosts, instance.owners, instance.work.boundary_bytes
    nearest_s = np.minimum(instance.regions.latency_s.min(axis=0), instance.regions.latency_s.min(axis=1))
    weights = owners.rates(boundary_bytes)
    weights = weights / weights.sum()
    lines = (hosts.up_bytes_per_s, owners.up_bytes_per_s)
    if float((1 / hosts.up_bytes_per_s).sum()) < float((1 / hosts.down_bytes_per_s).sum()):
        lines = (hosts.down_bytes_per_s, owners.down_bytes_per_s)
    # Forward and backward; each host has a neighbour on either side.
    share_s = 2 * boundary_bytes / lines[0] + 2 * nearest_s[hosts.region]
    owners_s = owners.ends_s + 2 * boundary_bytes / lines[1] + 2 * nearest_s[owners.region]
    return share_s, float((weights * owners_s).sum())
