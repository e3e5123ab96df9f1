"""No plan of these hosts is faster: an upper bound on tokens per second, to be printed beside every plan.

Fix an interval of all-reduce times and one of path times (a microbatch through the empty pipeline and back), and let T
be the time a step computes. Of any plan within both, with rate X, path P, spans k and flows y of its hosts:

- every layer sees every microbatch:           sum k y = L X
- streaming the batch K, and filling, take T:   X (T - P) >= K
- the path is its hosts' shares h(k):           sum y h(k) = X (P - the owners' share)
- a host's flow is within its rate, and within its memory for what is in flight (Little's law): y <= slots / P
- stages reduce in time tau: of each span, over its hosts, sum (2 k g - tau B) <= 2 k g stages; g a layer's gradient,
  B a member's line. With a price for spans from some length on and none below, the right sides sum up to 2 g L or less
- and so does each member:                      k g <= tau B, unless it is alone, and then its rate is X or more

Eliminating X and P with a weight b >= 0 gives sum y (k/L (T + (b - 1) P) - b h) >= K. Spans are chosen per host,
whether or not they make up stages, and the all-reduce's row is priced; any weight and any price >= 0 are valid (weak
duality), and leave independent choices: the least T costs O(hosts x spans). Intervals are split where the bound is
weakest, and the weakest one counts.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from scheduler.planner.evaluator import host_rates, owners_reduce_s, step_seconds
from scheduler.planner.instance import Floats, Instance, Ints

_SAFE = 1 - 1e-9
"""Against rounding: the bound may be too loose by so much, never too tight."""
_Prices = tuple[float, float, float]
_Interval = tuple[float, float]
_SEARCH_STEPS = 8
_START = (0.3, 1.0, 1.0)
"""Price of the all-reduce's rows as a share of the global batch, weight of the path, and the smallest span that is
priced, in spans that a mean line just reduces in time: to begin with."""
_FIRST_FACTOR = 2.0
_SPLITS = 60
_NEWTON_STEPS = 50
"""Usually five are enough; with more the price is hopeless."""
_CLOSE_ENOUGH = 1.002
"""Intervals whose ends differ by less are not split."""


@dataclass(frozen=True, slots=True, order=True)
class _Box:
    """Plans with all-reduces and paths of certain lengths; none has a shorter step.

    Attributes:
        step_s: the bound; first, for the order.
        prices: that gave it.
    """

    step_s: float
    sync_s: _Interval
    path_s: _Interval
    prices: _Prices

    def halves(self) -> tuple[tuple[_Interval, _Interval], ...]:
        """The box cut where it is longer; as intervals of both."""
        if _ratio(self.sync_s) >= _ratio(self.path_s):
            return tuple((part, self.path_s) for part in _cut(self.sync_s))
        return tuple((self.sync_s, part) for part in _cut(self.path_s))


def _ratio(interval: _Interval) -> float:
    return interval[1] / interval[0] if interval[0] else math.inf


def _cut(interval: _Interval) -> tuple[_Interval, _Interval]:
    low, high = interval
    middle = math.sqrt(low * high) if low else high / 8
    return (low, middle), (middle, high)


def throughput_bound(instance: Instance, known_tokens_per_s: float, splits: int = _SPLITS) -> float:
    """Bound every plan.

    Args:
        known_tokens_per_s: of a plan that is there already; a better one must have its rate.
        splits: of the intervals: more are slower and tighter.

    Returns:
        Tokens per second; at least `known_tokens_per_s`.

    Source: Lagrangian relaxation, with the all-reduce in hivemind's closed form; the rest is this project's model.
    """
    work = instance.work
    tokens = work.global_batch * work.microbatch_tokens
    known_s = tokens / known_tokens_per_s
    choices = _Choices.of(instance, known_s)
    ends_s = owners_reduce_s(instance)

    def box(sync_s: _Interval, path_s: _Interval, prices: _Prices) -> _Box:
        compute_s, prices = _least_compute_s(choices, sync_s[1], path_s, prices)
        step_s = step_seconds(work.staleness, compute_s, max(sync_s[0], ends_s))
        return _Box(min(step_s, known_s), sync_s, path_s, prices)

    boxes = [box((0.0, known_s), (min(choices.least_path_s, known_s), known_s), _START)]
    for _ in range(splits):
        weakest = boxes[0]
        if weakest.step_s >= known_s or max(_ratio(weakest.sync_s), _ratio(weakest.path_s)) < _CLOSE_ENOUGH:
            break
        heapq.heappop(boxes)
        for sync_s, path_s in weakest.halves():
            heapq.heappush(boxes, box(sync_s, path_s, weakest.prices))
    return max(known_tokens_per_s, tokens / (boxes[0].step_s * _SAFE))


@dataclass(frozen=True, slots=True, eq=False)
class _Choices:
    """Every host with every span its memory holds; one entry each, host by host.

    Attributes:
        host: row, ascending.
        rates: microbatches a second.
        slots: microbatches in flight that memory allows.
        shares: of the trunk's layers.
        path_s: what the choice adds to a route's time.
        member_sync_s: the least all-reduce time in company.
        need_bytes: gradient bytes, twice.
        lines: bytes/s in an all-reduce.
        lone_rate: a choice of this rate may be alone in its stage.
        least_path_s, least_compute_s: no plan has less; `owners_s` of it is the owners'.
        global_batch, toll_scale: microbatches, and microbatches a byte at a price of 1.
    """

    host: Ints
    rates: Floats
    slots: Floats
    shares: Floats
    path_s: Floats
    member_sync_s: Floats
    need_bytes: Floats
    lines: Floats
    lone_rate: float
    known_s: float
    owners_s: float
    least_path_s: float
    least_compute_s: float
    global_batch: int
    toll_scale: float

    @classmethod
    def of(cls, instance: Instance, known_s: float) -> _Choices:
        """Lay out an instance's choices."""
        work, hosts = instance.work, instance.hosts
        most = instance.most_layers()
        host = np.repeat(np.arange(instance.num_hosts), most)
        span = np.arange(len(host)) - np.repeat(np.cumsum(most) - most, most) + 1
        share_s, owners_s = _route_shares_s(instance)
        lines = hosts.reduce_bytes_per_s[host]
        path_s = span * hosts.layer_s[host] + (hosts.overhead_s + share_s)[host]
        owners_rate = float(instance.owners.rates(work.boundary_bytes).sum())
        least_path_s = owners_s + work.num_layers * float((path_s / span).min(initial=np.inf))
        return cls(
            host=host,
            rates=host_rates(instance, host, span),
            slots=instance.slots(host, span).astype(np.float64),
            shares=span / work.num_layers,
            path_s=path_s,
            member_sync_s=span * work.gradient_bytes / lines,
            need_bytes=(2 * work.gradient_bytes) * span.astype(np.float64),
            lines=lines,
            lone_rate=work.global_batch / known_s,
            known_s=known_s,
            owners_s=owners_s,
            least_path_s=least_path_s,
            least_compute_s=work.global_batch / owners_rate + least_path_s,
            global_batch=work.global_batch,
            toll_scale=work.global_batch / (2 * work.gradient_bytes * work.num_layers),
        )


def _least_compute_s(choices: _Choices, sync_s: float, path_s: _Interval, prices: _Prices) -> tuple[float, _Prices]:
    """No plan with all-reduces up to `sync_s` and such a path computes in less time.

    Args:
        prices: to start the search for the best ones with.

    Returns:
        Seconds, capped at the known step's, and the prices that gave them.
    """
    flows = np.minimum(choices.rates, choices.slots / path_s[0])
    kept = (choices.member_sync_s <= sync_s) | (flows >= choices.lone_rate)
    relaxed = _Relaxed(
        first=np.flatnonzero(np.diff(choices.host[kept], prepend=-1)),
        gain=(flows * choices.shares)[kept],
        path=(flows * choices.path_s)[kept],
        toll=(choices.toll_scale * (choices.need_bytes - sync_s * choices.lines))[kept],
        strain=(choices.need_bytes / (sync_s * choices.lines.mean()))[kept],
        path_s=(path_s[0] - choices.owners_s, path_s[1] - choices.owners_s),
        known_s=choices.known_s - choices.owners_s,
        wanted=float(choices.global_batch),
    )
    least_s = max(choices.least_compute_s, path_s[0] + choices.global_batch / max(float(flows.sum()), 1e-300))
    best_s, factor = relaxed.least_s(prices), _FIRST_FACTOR
    free_s = relaxed.least_s((0.0, prices[1], prices[2]))
    if free_s > best_s:
        best_s, least_s = free_s, max(least_s, free_s + choices.owners_s)
    for _ in range(_SEARCH_STEPS):
        if max(best_s, least_s - choices.owners_s) >= relaxed.known_s:
            break
        around = [
            (
                prices[0] * (change if which == 0 else 1),
                prices[1] * (change if which == 1 else 1),
                prices[2] * (change if which == 2 else 1),
            )
            for which in range(len(prices))
            for change in (factor, 1 / factor)
        ]
        at_s, at = max((relaxed.least_s(each, best_s), each) for each in around)
        if at_s > best_s:
            best_s, prices = at_s, at
        else:
            factor = math.sqrt(factor)
    return min(max(best_s + choices.owners_s, least_s), choices.known_s), prices


@dataclass(frozen=True, slots=True, eq=False)
class _Relaxed:
    """The relaxation within one box; times without the owners' share.

    Attributes:
        first: where each host's choices begin.
        gain: microbatches of a choice per second of T.
        path: microbatches times seconds that it adds to routes.
        toll: at a price of 1, in microbatches.
        strain: gradient bytes of the span over what a mean line moves in time.
        wanted: microbatches of a step.
    """

    first: Ints
    gain: Floats
    path: Floats
    toll: Floats
    strain: Floats
    path_s: _Interval
    known_s: float
    wanted: float

    def least_s(self, prices: _Prices, floor_s: float = 0.0) -> float:
        """The T at which the relaxed hosts just finish the batch; capped at the known step's.

        Args:
            floor_s: an answer below this is of no use; 0 stands for it.

        Newton's method from above: the total is convex and piecewise linear in T, so it ends after finitely many
        steps, and no step goes below the root.
        """
        price, weight, least_strain = prices
        # What T is moved by, from X (T + (weight - 1) P): the end of the interval that makes more of it.
        shift_s = (weight - 1) * self.path_s[1 if weight > 1 else 0]
        wanted = self.wanted * (1 - price)
        fixed = weight * self.path
        toll = np.where(self.strain >= least_strain, price * self.toll, 0.0)
        compute_s = self.known_s
        if not len(self.first):
            return compute_s
        for _ in range(_NEWTON_STEPS):
            if compute_s <= max(floor_s, -shift_s):
                return 0.0
            done = np.maximum(self.gain * (compute_s + shift_s) - fixed, 0.0)
            score = done - toll
            best = np.maximum.reduceat(score, self.first)
            total = float(best.sum(where=best > 0))
            if total <= wanted:
                return compute_s
            chosen = (score == np.repeat(best, np.diff(self.first, append=len(score)))) & (score > 0) & (done > 0)
            slope = float(self.gain.sum(where=chosen))
            if slope <= 0:
                return 0.0
            following_s = compute_s - (total - wanted) / slope
            if following_s >= compute_s * (1 - 1e-12):
                return following_s
            compute_s = following_s
        return 0.0


def _route_shares_s(instance: Instance) -> tuple[Floats, float]:
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
