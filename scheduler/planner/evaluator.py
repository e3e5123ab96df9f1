"""What a plan gives: tokens per second, and where a step's time goes. Every planner and baseline is judged by this.

Compute and transfers of one host overlap, so its rate is that of the slowest of the three. A stage's rate is the sum
of its hosts', the pipeline's that of its slowest part. Each step pays once for filling and draining the pipeline: the
path of one microbatch, averaged over routes. Routes are drawn by the hosts' rates, and stay in a region where they can;
where links between regions are worse than idle hosts, weights are lowered so that they always can. A host keeps a
microbatch's graph from its forward to its backward, so the later its stage, the shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler.planner.instance import Assignment, Floats, Instance, Ints
from scheduler.planner.links import region_routes, routable_rate
from swarm.errors import ModelTooLarge, RunError

_LITTLE_ROUNDS = 4
"""Rates depend on the path's time and it depends on them; this many rounds come close enough."""

_WINDOW_FILLS = 4.0
"""Microbatches in flight, in times of what fills the pipeline: with twice, hosts whose work comes unevenly waited for a
tenth of the time, on thin lines for longer; six times brought nothing more."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A plan's prediction.

    Attributes:
        tokens_per_s: the objective.
        step_s: of which `stream_s` at the bottleneck's rate, `fill_s` to fill and drain, `sync_s` in all-reduces
            (which overlap the rest where staleness is 1).
        rate: microbatches a second of the whole pipeline.
        host_rates: microbatches a second each host can do; 0 for standbys. Routing weights.
        stage_rates: their sums.
        stage_reduce_s: all-reduce of each stage.
        stage_residence_s: how long its hosts keep a microbatch's graph.
        spare_fills: how many times what fills the pipeline its hosts have memory for; 1 at least.
        limit: what `rate` is limited by: `stage`, `owners` or `links`.
    """

    tokens_per_s: float
    step_s: float
    stream_s: float
    fill_s: float
    sync_s: float
    rate: float
    host_rates: Floats
    stage_rates: Floats
    stage_reduce_s: Floats
    stage_residence_s: Floats
    spare_fills: float
    limit: str

    def window(self, num_owners: int, global_batch: int) -> int:
        """Microbatches an owner should have in flight: some times what fills the pipeline, as far as memory goes."""
        fills = min(_WINDOW_FILLS, self.spare_fills)
        wanted = int(np.ceil(fills * self.rate * self.fill_s / num_owners))
        return max(1, min(wanted, -(-global_batch // num_owners)))


def evaluate(instance: Instance, plan: Assignment) -> Evaluation:
    """Predict a plan.

    Args:
        plan: every stage has a host.

    Raises:
        ModelTooLarge: a host has not enough memory for its layers and one microbatch.
        RunError: a stage without a host, or spans that do not cover the trunk.

    Source: SWARM (Ryabinin et al., ICML 2023) for replicated stages; Little's law for what is in flight.
    """
    work = instance.work
    used = np.flatnonzero(plan.stage >= 0)
    stage = plan.stage[used]
    counts = np.bincount(stage, minlength=plan.num_stages)
    if plan.sizes.sum() != work.num_layers or (plan.sizes < 1).any() or (counts < 1).any():
        raise RunError("a plan does not cover the trunk, or has a stage without a host", "report this as a bug")
    slots = instance.slots(used, plan.sizes[stage])
    if (slots < 1).any():
        short = instance.hosts.names[used[int(slots.argmin())]]
        raise ModelTooLarge(f"{short} has not enough memory for its span", "give it fewer layers")
    unbound: Floats = host_rates(instance, used, plan.sizes[stage])
    flow = min(
        (
            _routed(instance, used, stage, plan.sizes, unbound, slots, weighing)
            for weighing in _weighings(instance, used, stage, unbound, plan.num_stages)
        ),
        key=lambda each: each.compute_s,
    )
    reduce_s = stage_reduce_s(instance, used, stage, plan.sizes)
    sync_s = max(float(reduce_s.max()), owners_reduce_s(instance))
    all_rates = np.zeros(instance.num_hosts)
    all_rates[used] = flow.rates
    step_s = step_seconds(work.staleness, flow.compute_s, sync_s)
    held = flow.rate * (flow.rates / flow.stage_rates[stage]) * flow.residence_s[stage]
    return Evaluation(
        tokens_per_s=work.global_batch * work.microbatch_tokens / step_s,
        step_s=step_s,
        stream_s=flow.compute_s - flow.path_s,
        fill_s=flow.path_s,
        sync_s=sync_s,
        rate=flow.rate,
        host_rates=all_rates,
        stage_rates=flow.stage_rates,
        stage_reduce_s=reduce_s,
        stage_residence_s=flow.residence_s,
        spare_fills=max(1.0, float((slots / np.maximum(held, 1e-300)).min())),
        limit=flow.limit,
    )


def step_seconds(staleness: int, compute_s: float, sync_s: float) -> float:
    """A step of computing and reducing: one after the other, or at once where weights may be a step old."""
    return max(compute_s, sync_s) if staleness else compute_s + sync_s


def host_rates(instance: Instance, host: Ints, layers: Ints) -> Floats:
    """Microbatches a second that hosts can do with so many layers, were there always one waiting.

    Args:
        host: rows.
        layers: held by each; broadcast against `host`.
    """
    hosts = instance.hosts
    slower = np.minimum(hosts.up_bytes_per_s[host], hosts.down_bytes_per_s[host])
    compute_s = layers * hosts.layer_s[host] + hosts.overhead_s[host]
    # Two transfers each way: an activation and a gradient.
    rates: Floats = 1 / np.maximum(compute_s, 2 * instance.work.boundary_bytes / slower)
    return rates


@dataclass(frozen=True, slots=True, eq=False)
class _Flow:
    """What goes through a pipeline.

    Attributes:
        rates: of the hosts used.
        compute_s: of a step, all-reduces left out.
    """

    rates: Floats
    stage_rates: Floats
    rate: float
    limit: str
    path_s: float
    residence_s: Floats
    compute_s: float


_Weighing = Callable[[Floats], Floats]
"""From rates that hosts could do to those at which they are used."""


def _weighings(instance: Instance, used: Ints, stage: Ints, unbound: Floats, num_stages: int) -> list[_Weighing]:
    """All that hosts can do; and, where that is half as much at least, rates at which no route leaves its region, such
    that all of them do so on their way from an owner and back, as regions' speeds differ from their owners', or only
    half as many, or none.
    """
    weighings: list[_Weighing] = [lambda rates: rates]
    num_regions = len(instance.regions.latency_s)
    if num_regions < 2:
        return weighings
    cell = stage * num_regions + instance.hosts.region[used]
    owner_share = _owner_shares(instance)

    def sums_of(rates: Floats) -> Floats:
        sums: Floats = np.bincount(cell, weights=rates, minlength=num_stages * num_regions).astype(np.float64)
        return sums.reshape(num_stages, num_regions)

    def lowered(rates: Floats, sums: Floats, wanted: Floats) -> Floats:
        lower: Floats = np.maximum(rates * (wanted / np.maximum(sums, 1e-300)).ravel()[cell], 1e-9 * rates)
        return lower

    def towards_owners(part: float) -> _Weighing:
        def weighed(rates: Floats) -> Floats:
            sums = sums_of(rates)
            least = sums.min(axis=0)
            share = least / max(float(least.sum()), 1e-300)
            share = share + part * (owner_share - share)
            return lowered(rates, sums, share * _level(least, share))

        return weighed

    sums = sums_of(unbound)
    least, half = sums.min(axis=0), float(sums.sum(axis=1).min()) / 2
    if least.sum() >= half:
        parts = (0.0, 0.5, 1.0)[: 3 if _level(least, owner_share) >= half else 2]
        weighings.extend(towards_owners(part) for part in parts)
    return weighings


def _level(least: Floats, share: Floats) -> float:
    """The rate at which every region does its share of it."""
    of_use = share > 0
    return float((least[of_use] / share[of_use]).min()) if of_use.any() else 0.0


def _owner_shares(instance: Instance) -> Floats:
    """Of each region: its owners' share of all microbatches."""
    weights = instance.owners.rates(instance.work.boundary_bytes)
    num_regions = len(instance.regions.latency_s)
    shares = np.bincount(instance.owners.region, weights=weights / weights.sum(), minlength=num_regions)
    return shares.astype(np.float64)


def _routed(
    instance: Instance, used: Ints, stage: Ints, sizes: Ints, unbound: Floats, slots: Ints, weighing: _Weighing
) -> _Flow:
    """Hosts at the rates given, lowered, and as far as memory, owners and links allow."""
    rates, path_s, residence_s = _in_flight(instance, used, stage, sizes, unbound, slots, weighing)
    stage_rates: Floats = np.bincount(stage, weights=rates, minlength=len(sizes)).astype(np.float64)
    rate, limit = float(stage_rates.min()), "stage"
    owners_rate = float(instance.owners.rates(instance.work.boundary_bytes).sum())
    if owners_rate < rate:
        rate, limit = owners_rate, "owners"
    links_rate = routable_rate(instance, used, stage, rates, rate)
    if links_rate < rate:
        rate, limit = links_rate, "links"
    # Nothing at all can be routed where a link is needed that carries nothing.
    compute_s = instance.work.global_batch / max(rate, 1e-300) + path_s
    return _Flow(rates, stage_rates, rate, limit, path_s, residence_s, compute_s)


def _in_flight(
    instance: Instance, used: Ints, stage: Ints, sizes: Ints, unbound: Floats, slots: Ints, weighing: _Weighing
) -> tuple[Floats, float, Floats]:
    """Rates that memory for what is in flight allows (Little's law), the time of a path drawn by those rates, and how
    long each stage keeps a microbatch."""
    rates = weighing(unbound)
    path_s, residence_s = _path_s(instance, used, stage, sizes, rates)
    for _ in range(_LITTLE_ROUNDS):
        limited = weighing(np.minimum(unbound, slots / residence_s[stage]))
        if np.array_equal(limited, rates):
            return rates, path_s, residence_s
        rates, before_s = limited, residence_s
        path_s, residence_s = _path_s(instance, used, stage, sizes, rates)
    # Not quite a fixed point: all rates in proportion keep the path, and what is in flight fits.
    return rates * min(1.0, float((before_s / residence_s).min())), path_s, residence_s


def _path_s(instance: Instance, used: Ints, stage: Ints, sizes: Ints, rates: Floats) -> tuple[float, Floats]:
    """One microbatch through the empty pipeline and back, averaged over routes drawn by the hosts' rates; and of that,
    from its arrival at each stage until its gradient has left there."""
    hosts, owners, boundary_bytes = instance.hosts, instance.owners, instance.work.boundary_bytes
    num_stages, num_regions = len(sizes), len(instance.regions.latency_s)
    totals = np.bincount(stage, weights=rates, minlength=num_stages)

    def mean(values: Floats) -> Floats:
        return np.bincount(stage, weights=rates * values, minlength=num_stages) / totals

    owner_weights = owners.rates(boundary_bytes)
    owner_weights = owner_weights / owner_weights.sum()
    compute_s = mean(sizes[stage] * hosts.layer_s[used] + hosts.overhead_s[used])
    ends_s = float((owner_weights * owners.ends_s).sum())
    # The chain is owners, stage 0, ..., the last stage, and owners again.
    up = _ringed(mean(1 / hosts.up_bytes_per_s[used]), float((owner_weights / owners.up_bytes_per_s).sum()))
    down = _ringed(mean(1 / hosts.down_bytes_per_s[used]), float((owner_weights / owners.down_bytes_per_s).sum()))
    flat = np.bincount(
        stage * num_regions + hosts.region[used], weights=rates / totals[stage], minlength=num_stages * num_regions
    )
    owner_share = _owner_shares(instance)
    shares = np.vstack([owner_share, flat.reshape(num_stages, num_regions), owner_share])
    routes = region_routes(shares)
    pairs = (routes / instance.regions.pair_bytes_per_s).sum(axis=(1, 2))
    latency_s = (routes * instance.regions.latency_s).sum(axis=(1, 2))
    forward = np.maximum(np.maximum(up[:-1], down[1:]), pairs)
    backward = np.maximum(np.maximum(up[1:], down[:-1]), pairs)
    hops_s = boundary_bytes * (forward + backward) + 2 * latency_s
    # Hop s + 1 and what follows come after stage s.
    residence_s: Floats = ends_s + np.cumsum((compute_s + hops_s[1:])[::-1])[::-1]
    return float(hops_s[0] + residence_s[0]), residence_s


def _ringed(inner: Floats, owners: float) -> Floats:
    return np.concatenate([[owners], inner, [owners]])


def stage_reduce_s(instance: Instance, used: Ints, stage: Ints, sizes: Ints) -> Floats:
    """Each stage's all-reduce: parts sized so that all members finish together, as far as the slowest one can.

    Source: closed form of hivemind's load-balancing linear programme.
    """
    lines = instance.hosts.reduce_bytes_per_s[used]
    num_stages, num_regions = len(sizes), len(instance.regions.latency_s)
    counts = np.bincount(stage, minlength=num_stages)
    slowest = np.full(num_stages, np.inf)
    np.minimum.at(slowest, stage, lines)
    sums = np.bincount(stage, weights=lines, minlength=num_stages)
    present = np.zeros((num_stages, num_regions), dtype=np.bool_)
    present[stage, instance.hosts.region[used]] = True
    latency_s = np.array([instance.regions.latency_s[np.ix_(row, row)].max() for row in present])
    seconds = sizes * instance.work.gradient_bytes * np.maximum(1 / slowest, (2 * counts - 2) / sums) + 2 * latency_s
    alone_free: Floats = np.where(counts > 1, seconds, 0.0)
    return alone_free


def owners_reduce_s(instance: Instance) -> float:
    """The all-reduce of the ends, among owners."""
    owners = instance.owners
    count = len(owners.names)
    if count < 2:
        return 0.0
    lines = np.minimum(owners.up_bytes_per_s, owners.down_bytes_per_s)
    present = np.unique(owners.region)
    latency_s = float(instance.regions.latency_s[np.ix_(present, present)].max())
    slowness = max(1 / float(lines.min()), (2 * count - 2) / float(lines.sum()))
    return instance.work.ends_gradient_bytes * slowness + 2 * latency_s


def reduce_fractions(lines_bytes_per_s: Floats) -> Floats:
    """The part of the values that each member of a group averages.

    Args:
        lines_bytes_per_s: of each member.

    Returns:
        Shares that sum up to 1: with n members and share f, a member moves 1 + (n - 2) f of the values each way, and
        all finish in the group's time.
    """
    count = len(lines_bytes_per_s)
    if count < 3:
        halves: Floats = lines_bytes_per_s / lines_bytes_per_s.sum()
        return halves
    time_s = max(1 / lines_bytes_per_s.min(), (2 * count - 2) / lines_bytes_per_s.sum())
    spare = np.maximum(lines_bytes_per_s * time_s - 1, 0.0)
    fractions: Floats = spare / spare.sum()
    return fractions
