"""The planning problem without stages: which spans hosts take, as a linear programme, and its prices.

A plan with rate X gives each of its hosts a share f of its stage's microbatches: f <= 1 and f <= rate / X. Then, k
being the host's span, g a layer's gradient, B a member's line in an all-reduce of at most tau, and h what the host adds
to a route's time,

- every layer is held:                            sum k f = the trunk's layers
- stages of one size k reduce in time:            sum (2 k g - tau B) <= 2 k g stages = sum 2 k g f, for each k
- and so does each member:                        k g <= tau B, unless it is alone, and then its rate is X or more
- the path is its hosts' shares:                  sum f h = the path's time, without the owners' share
- graphs are kept, r long, until gradients come:  X f r <= the host's slots
- and there is only one path, for any horizon t:  sum f h max(t - r, 0) <= t^2 / 2

In the last row, r is counted without `last_s`. A stage lies in the path like an interval as long as its hosts' h, and r
is at least that interval's middle. max(t - r, 0) is convex and falls with r: at the middle it is at most its mean over
the interval, and as intervals do not overlap, together they have at most its integral.

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
        waits: of a square second, for each horizon.
        layer: of a layer held.
    """

    reduce: Floats
    waits: Floats
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
        slots: microbatches in flight.
        num_layers: of the trunk.
        last_s: of every path, from its last host to the owner and back.
    """

    host: Ints
    layers: Ints
    rates: Floats
    lines: Floats
    need_bytes: Floats
    hop_s: Floats
    slots: Floats
    num_layers: int
    last_s: float

    @classmethod
    def of(cls, instance: Instance, hosts: Ints) -> Spans:
        """Lay out the spans of some hosts, by row."""
        work = instance.work
        most = instance.most_layers()[hosts]
        host = np.repeat(np.arange(len(hosts)), most)
        layers = np.arange(len(host)) - np.repeat(np.cumsum(most) - most, most) + 1
        rows = hosts[host]
        share_s, owners_s = route_shares_s(instance)
        return cls(
            host=host,
            layers=layers,
            rates=np.minimum(host_rates(instance, rows, layers), _kept_rates(instance, rows, layers)),
            lines=instance.hosts.reduce_bytes_per_s[rows],
            need_bytes=(2 * work.gradient_bytes) * layers.astype(np.float64),
            hop_s=layers * instance.hosts.layer_s[rows] + (instance.hosts.overhead_s + share_s)[rows],
            slots=instance.slots(rows, layers).astype(np.float64),
            num_layers=work.num_layers,
            # The ends, and one of the two ways between owners and hosts.
            last_s=(owners_s + mean_ends_s(instance)) / 2,
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
            self.slots[keep],
            self.num_layers,
            self.last_s,
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

    def __init__(self, spans: Spans, weight: float, sync_s: float, horizons_s: Floats) -> None:
        """Lay out.

        Args:
            weight: hosts that each one stands for.
            horizons_s: for which waits are priced, ascending.
        """
        self.spans, self.weight, self._horizons_s = spans, weight, horizons_s
        self._credit = sync_s * spans.lines
        self._in_time = spans.need_bytes <= 2 * self._credit

    def held_layers(self, prices: Prices) -> Callable[[float], float]:
        """From a rate: no plan, at least at that rate, holds more layers."""
        toll = prices.reduce[self.spans.layers]
        return self._best(self.spans.layers + toll * self.spans.need_bytes, toll, prices.waits)

    def least_path_s(self, prices: Prices) -> Callable[[float], float]:
        """From a rate: no plan, at least at that rate, has a shorter path, owners left out."""
        spans = self.spans
        toll = prices.reduce[spans.layers]
        worth = prices.layer * spans.layers + toll * spans.need_bytes - spans.hop_s
        best = self._best(worth, toll, prices.waits)
        return lambda rate: prices.layer * spans.num_layers - best(rate)

    def _best(self, worth: Floats, toll: Floats, waits: Floats) -> Callable[[float], float]:
        """The best of each host's spans, all together, from a rate."""
        spans, late = self.spans, ~self._in_time
        first = np.flatnonzero(np.diff(spans.host, prepend=-1))
        cost = toll * (spans.need_bytes - self._credit)
        priced = np.flatnonzero(waits > 0)
        horizons_s, waits = self._horizons_s[priced], waits[priced]
        free = float((waits * horizons_s**2).sum()) / 2

        def total(rate: float) -> float:
            share = np.minimum(spans.rates / rate, 1.0)
            gains = np.maximum(worth * share, 0.0)
            if len(waits):
                # Full graphs of memory come early in the path for a smaller share of it only.
                short = np.flatnonzero(spans.slots < rate * share * (horizons_s[-1] + spans.last_s))
                gains[short] = self._held_back(short, worth[short], share[short], rate, horizons_s, waits)
            scores = gains - cost
            # One too slow to reduce in time must be alone, and then its share is 1.
            scores[late & (share < 1)] = 0.0
            best = np.maximum.reduceat(scores, first) if len(scores) else scores
            return self.weight * float(best.sum(where=best > 0)) + free

        return total

    def _held_back(
        self, rows: Ints, worth: Floats, share: Floats, rate: float, horizons_s: Floats, waits: Floats
    ) -> Floats:
        """What spans that are short of memory gain at the share that is best for them."""
        slots, hop_s = self.spans.slots[rows], self.spans.hop_s[rows]
        best = np.zeros(len(rows))
        # Gains are linear in the share, but for where a horizon is reached.
        for horizon_s in (0.0, *horizons_s.tolist()):
            part = np.minimum(share, slots / (rate * (horizon_s + self.spans.last_s)))
            kept_s = np.maximum(slots / np.maximum(rate * part, 1e-300) - self.spans.last_s, horizon_s)
            price = np.maximum(horizons_s[:, None] - kept_s, 0.0).T @ waits
            best = np.maximum(best, part * (worth - hop_s * price))
        return best

    def most_layers(self, rate: float) -> Solved | None:
        """How many layers the hosts hold at a rate; None where none do."""
        return self._solve(rate, shortest=False)

    def shortest_path(self, rate: float) -> Solved | None:
        """The shortest path that holds all layers at a rate; None where there is none."""
        return self._solve(rate, shortest=True)

    def _columns(self, rate: float) -> tuple[Ints, Floats, Floats]:
        """Spans, shares, and how long graphs can be kept, the last hop left out: full shares, and horizons' shares."""
        spans = self.spans
        share = np.minimum(spans.rates / rate, 1.0)
        keep = np.flatnonzero((self._in_time | (share >= 1)) & (share > 1e-9))
        rows, shares = [keep], [share[keep]]
        kept_s = [spans.slots[keep] / (rate * share[keep]) - spans.last_s]
        full, in_time = kept_s[0].copy(), self._in_time[keep]
        shares[0] = np.where(full < 0, share[keep] * (1 + full / spans.last_s), share[keep])
        for horizon_s in self._horizons_s.tolist():
            short = np.flatnonzero((full < horizon_s) & in_time)
            rows.append(keep[short])
            shares.append(spans.slots[keep[short]] / (rate * (horizon_s + spans.last_s)))
            kept_s.append(np.full(len(short), horizon_s))
        return np.concatenate(rows), np.concatenate(shares), np.maximum(np.concatenate(kept_s), 0.0)

    def _solve(self, rate: float, shortest: bool) -> Solved | None:
        chosen, share, kept_s = self._columns(rate)
        if not len(share):
            return None
        spans = self.spans.take(chosen)
        num_hosts, sizes, horizons_s = int(spans.host.max()) + 1, spans.num_layers + 1, self._horizons_s
        toll = spans.need_bytes * (1 - share) - self._credit[chosen]
        scale = 1 / max(float(np.abs(toll).max()), 1e-300)
        columns = np.arange(len(share))
        rows, data = [spans.host, num_hosts + spans.layers], [np.ones(len(share)), toll * scale]
        limits = np.concatenate([np.full(num_hosts, self.weight), np.zeros(sizes), np.ones(len(horizons_s))])
        for number, horizon_s in enumerate(horizons_s.tolist()):
            rows.append(np.full(len(share), num_hosts + sizes + number))
            data.append(share * spans.hop_s * np.maximum(horizon_s - kept_s, 0.0) * (2 / horizon_s**2))
        held = spans.layers * share
        if shortest:
            rows.append(np.full(len(share), len(limits)))
            data.append(-held)
            limits = np.append(limits, -float(spans.num_layers))
        matrix = csr_array(
            (np.concatenate(data), (np.concatenate(rows), np.tile(columns, len(data)))),
            shape=(len(limits), len(share)),
        )
        matrix.eliminate_zeros()
        found = linprog(spans.hop_s * share if shortest else -held, A_ub=matrix, b_ub=limits, method="highs")
        if found.x is None:
            return None
        marginals = np.maximum(-found.ineqlin.marginals, 0.0)
        reduce, waits = marginals[num_hosts : num_hosts + sizes], marginals[num_hosts + sizes :][: len(horizons_s)]
        layer = float(marginals[-1]) if shortest else 1.0
        prices = Prices(reduce * scale, waits * (2 / horizons_s**2), layer)
        stages = np.bincount(spans.layers, weights=found.x * share, minlength=sizes).astype(np.float64)
        return Solved(float((held * found.x).sum()), stages, prices)


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
