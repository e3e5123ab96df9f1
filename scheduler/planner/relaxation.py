"""The planning problem without stages: which spans hosts take, as a linear programme, and its prices.

A plan with rate X gives each of its hosts a share f of its stage's microbatches: f <= 1 and f <= rate / X. Then, k
being the host's span, g a layer's gradient, B a member's line in an all-reduce of at most tau, and h what the host adds
to a route's time,

- every layer is held:                            sum k f = the trunk's layers
- stages of one size k reduce in time:            sum (2 k g - tau B) <= 2 k g stages = sum 2 k g f, for each k
- and so does each member:                        k g <= tau B, unless it is alone, and then its rate is X or more
- the path is its hosts' shares:                  sum f h = the path's time, without the owners' share

Prices of the second row leave independent choices of the hosts, so any prices >= 0 bound every plan (weak duality), and
the linear programme over a sample of hosts finds good ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from scheduler.planner.evaluator import host_rates
from scheduler.planner.instance import Flags, Floats, Instance, Ints

_SPEED_STEP = 1.5
"""Hosts whose speeds differ by less are of one kind."""


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What rows of the programme are worth, in layers or, where a path is shortened, in its seconds.

    Attributes:
        reduce: of a byte in the all-reduces of stages of each size; by size, 0 first.
        layer: of a layer held.
    """

    reduce: Floats
    layer: float = 1.0


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
        num_layers: of the trunk.
    """

    host: Ints
    layers: Ints
    rates: Floats
    lines: Floats
    need_bytes: Floats
    hop_s: Floats
    num_layers: int

    @classmethod
    def of(cls, instance: Instance, hosts: Ints) -> Spans:
        """Lay out the spans of some hosts, by row."""
        work = instance.work
        most = instance.most_layers()[hosts]
        host = np.repeat(np.arange(len(hosts)), most)
        layers = np.arange(len(host)) - np.repeat(np.cumsum(most) - most, most) + 1
        rows = hosts[host]
        share_s, _ = route_shares_s(instance)
        return cls(
            host=host,
            layers=layers,
            rates=np.minimum(host_rates(instance, rows, layers), _kept_rates(instance, rows, layers)),
            lines=instance.hosts.reduce_bytes_per_s[rows],
            need_bytes=(2 * work.gradient_bytes) * layers.astype(np.float64),
            hop_s=layers * instance.hosts.layer_s[rows] + (instance.hosts.overhead_s + share_s)[rows],
            num_layers=work.num_layers,
        )

    def take(self, keep: Flags | Ints) -> Spans:
        """Some of the entries."""
        return Spans(
            self.host[keep],
            self.layers[keep],
            self.rates[keep],
            self.lines[keep],
            self.need_bytes[keep],
            self.hop_s[keep],
            self.num_layers,
        )


def _kept_rates(instance: Instance, host: Ints, layers: Ints) -> Floats:
    """What memory for graphs allows if a stage keeps each no longer than its own fastest hosts compute."""
    hosts = instance.hosts
    least_s = layers * hosts.layer_s.min() + hosts.overhead_s.min() + 2 * instance.regions.latency_s.min()
    kept: Floats = instance.slots(host, layers) / np.maximum(least_s, 1e-300)
    return kept


def by_kind(instance: Instance) -> tuple[Ints, Ints]:
    """Rows of all hosts, such that those alike are beside each other, and the number of each one's kind.

    Hosts of a kind hold as many layers and are about as fast; their lines, by which they are sorted, may differ much.
    """
    hosts = instance.hosts
    speed = np.round(np.log(hosts.layer_s) / np.log(_SPEED_STEP)).astype(np.int64)
    kinds = np.stack([instance.most_layers(), speed])
    kind = np.unique(kinds, axis=1, return_inverse=True)[1].ravel()
    order: Ints = np.lexsort((hosts.reduce_bytes_per_s, kind))
    return order, kind[order]


def sample(instance: Instance, most: int) -> tuple[Ints, float]:
    """At most so many of the hosts, evenly over the kinds, and how many each stands for."""
    order, _ = by_kind(instance)
    count = min(len(order), most)
    rows: Ints = order[np.linspace(0, len(order) - 1, count).round().astype(np.int64)]
    return rows, len(order) / count


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """The programme's answer.

    Attributes:
        layers: held.
        stages: of each size; fractions, by size, 0 first.
        prices: of its rows.
    """

    layers: float
    stages: Floats
    prices: Prices


class Relaxed:
    """The relaxation of some hosts, with all-reduces of some length at most."""

    def __init__(self, spans: Spans, weight: float, sync_s: float) -> None:
        """Lay out.

        Args:
            weight: hosts that each one stands for.
        """
        self.spans, self.weight = spans, weight
        self._credit = sync_s * spans.lines
        self._in_time = spans.need_bytes <= 2 * self._credit

    def held_layers(self, prices: Prices) -> Callable[[float], float]:
        """From a rate: no plan, at least at that rate, holds more layers."""
        toll = prices.reduce[self.spans.layers]
        return self._best(self.spans.layers + toll * self.spans.need_bytes, toll)

    def least_path_s(self, prices: Prices) -> Callable[[float], float]:
        """From a rate: no plan, at least at that rate, has a shorter path, owners left out."""
        spans = self.spans
        toll = prices.reduce[spans.layers]
        best = self._best(np.maximum(prices.layer * spans.layers + toll * spans.need_bytes - spans.hop_s, 0.0), toll)
        return lambda rate: prices.layer * spans.num_layers - best(rate)

    def _best(self, worth: Floats, toll: Floats) -> Callable[[float], float]:
        """The best of each host's spans, all together, from a rate."""
        rates, late = self.spans.rates, ~self._in_time
        first = np.flatnonzero(np.diff(self.spans.host, prepend=-1))
        cost = toll * (self.spans.need_bytes - self._credit)

        def total(rate: float) -> float:
            share = np.minimum(rates / rate, 1.0)
            scores = worth * share - cost
            # One too slow to reduce in time must be alone, and then its share is 1.
            scores[late & (share < 1)] = 0.0
            best = np.maximum.reduceat(scores, first) if len(scores) else scores
            return self.weight * float(best.sum(where=best > 0))

        return total

    def most_layers(self, rate: float) -> Solved | None:
        """How many layers the hosts hold at a rate; None where none do."""
        return self._solve(rate, shortest=False)

    def shortest_path(self, rate: float) -> Solved | None:
        """The shortest path that holds all layers at a rate; None where there is none."""
        return self._solve(rate, shortest=True)

    def _solve(self, rate: float, shortest: bool) -> Solved | None:
        share = np.minimum(self.spans.rates / rate, 1.0)
        keep = (self._in_time | (share >= 1)) & (share > 1e-9)
        spans, share = self.spans.take(keep), share[keep]
        if not len(share):
            return None
        num_hosts, sizes = int(spans.host.max()) + 1, spans.num_layers + 1
        toll = spans.need_bytes * (1 - share) - self._credit[keep]
        scale = 1 / max(float(np.abs(toll).max()), 1e-300)
        columns = np.arange(len(share))
        rows, data = [spans.host, num_hosts + spans.layers], [np.ones(len(share)), toll * scale]
        limits = np.concatenate([np.full(num_hosts, self.weight), np.zeros(sizes)])
        held = spans.layers * share
        if shortest:
            rows.append(np.full(len(share), num_hosts + sizes))
            data.append(-held)
            limits = np.append(limits, -float(spans.num_layers))
        matrix = csr_array(
            (np.concatenate(data), (np.concatenate(rows), np.tile(columns, len(data)))),
            shape=(len(limits), len(share)),
        )
        found = linprog(spans.hop_s * share if shortest else -held, A_ub=matrix, b_ub=limits, method="highs")
        if found.x is None:
            return None
        marginals = np.maximum(-found.ineqlin.marginals, 0.0)
        prices = Prices(marginals[num_hosts : num_hosts + sizes] * scale, float(marginals[-1]) if shortest else 1.0)
        stages = np.bincount(spans.layers, weights=found.x * share, minlength=sizes).astype(np.float64)
        return Solved(float((held * found.x).sum()), stages, prices)


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
