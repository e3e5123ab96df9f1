"""Hosts into the stages of a shape: sizes by the prices of its programme, stages longest-first, then local search."""

from __future__ import annotations

import heapq

import numpy as np

from scheduler.planner.evaluator import Evaluation, host_rates, owners_reduce_s
from scheduler.planner.improving import Filled, improve
from scheduler.planner.instance import Assignment, Floats, Instance, Ints
from scheduler.planner.links import separate
from scheduler.planner.shapes import Shape


def fill(instance: Instance, shape: Shape, size: Ints, moves: int) -> Assignment | None:
    """Place hosts.

    Args:
        size: of each host; layers, 0 for those left out.
        moves: at most so many improvements at each steepness.

    Returns:
        A plan; None where a stage gets no host.
    """
    sizes = np.array(shape.sizes)
    kinds = np.unique(sizes)
    rates = np.stack(
        [flows(instance, layers, shape.sync_s, float(shape.residence_s[layers])) for layers in kinds.tolist()]
    )
    stage = np.full(instance.num_hosts, -1, dtype=np.int64)
    for number, layers in enumerate(kinds.tolist()):
        hosts = np.flatnonzero((size == layers) & (rates[number] > 0))
        _longest_first(stage, instance.hosts.region, hosts, rates[number], np.flatnonzero(sizes == layers))
    kind_of_stage = np.searchsorted(kinds, sizes)
    if len(np.unique(stage[stage >= 0])) < len(sizes) and not every_stage(stage, rates, kind_of_stage):
        return None
    used = np.flatnonzero(stage >= 0)
    own = np.zeros(instance.num_hosts)
    own[used] = rates[kind_of_stage[stage[used]], used]
    filled = _filled(instance, stage, kind_of_stage, rates, own, sizes, shape.rate, shape.sync_s)
    improve(filled, moves)
    return ordered(instance, Assignment(filled.stage, sizes))


def settle(instance: Instance, plan: Assignment, found: Evaluation, sync_s: float, moves: int) -> Assignment:
    """Move hosts once more, each stage keeping microbatches as long as it was found to."""
    sizes, residence_s = plan.sizes, found.stage_residence_s
    pairs = zip(sizes.tolist(), residence_s.tolist(), strict=True)
    rates = np.stack([flows(instance, size, sync_s, stays_s) for size, stays_s in pairs])
    totals = np.bincount(plan.stage[plan.stage >= 0], weights=found.host_rates[plan.stage >= 0], minlength=len(sizes))
    wanted = float(np.average(totals, weights=sizes))
    kinds = np.arange(len(sizes))
    filled = _filled(instance, plan.stage.copy(), kinds, rates, found.host_rates, sizes, wanted, sync_s)
    improve(filled, moves)
    return Assignment(filled.stage, sizes)


def _filled(
    instance: Instance,
    stage: Ints,
    kind: Ints,
    rates: Floats,
    used_rates: Floats,
    sizes: Ints,
    wanted: float,
    sync_s: float,
) -> Filled:
    """Groups get batches by what their hosts do."""
    group = separate(instance)[instance.hosts.region]
    shares = np.bincount(group, weights=used_rates)
    return Filled(
        stage=stage,
        kind=kind,
        rates=rates,
        lines=instance.hosts.reduce_bytes_per_s,
        group=group,
        need_bytes=2 * instance.work.gradient_bytes * sizes.astype(np.float64),
        batches=instance.work.global_batch * shares / max(float(shares.sum()), 1e-300),
        overlapped=bool(instance.work.staleness),
        target_stream_s=instance.work.global_batch / wanted,
        target_sync_s=max(sync_s, owners_reduce_s(instance)),
    )


def ordered(instance: Instance, plan: Assignment) -> Assignment:
    """Stages whose hosts have the least memory for graphs come last, where they are kept for the shortest time."""
    used = np.flatnonzero(plan.stage >= 0)
    stage = plan.stage[used]
    rates = host_rates(instance, used, plan.sizes[stage])
    slots = instance.slots(used, plan.sizes[stage])
    # How long all could be kept without a loss, on the average.
    kept = np.bincount(stage, weights=slots, minlength=plan.num_stages)
    room_s = kept / np.bincount(stage, weights=rates, minlength=plan.num_stages)
    order = np.argsort(-room_s, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Assignment(np.where(plan.stage < 0, -1, place[plan.stage]), plan.sizes[order])


def flows(instance: Instance, layers: int, sync_s: float, residence_s: float) -> Floats:
    """Microbatches a second of each host with so many layers; 0 where they do not fit or would reduce too late."""
    rows = np.arange(instance.num_hosts)
    spans = np.full(instance.num_hosts, layers)
    slots = np.maximum(instance.slots(rows, spans), 1)
    limited = np.minimum(host_rates(instance, rows, spans), slots / residence_s)
    in_time = instance.hosts.reduce_bytes_per_s * sync_s * (1 + 1e-9) >= layers * instance.work.gradient_bytes
    return np.where(in_time & (instance.most_layers() >= layers), limited, 0.0)


def _longest_first(stage: Ints, region: Ints, hosts: Ints, flow: Floats, numbers: Ints) -> None:
    """Always to the slowest of the stages, the fastest host first; in place.

    Region by region, so that each has its share in every stage and routes can stay inside it.

    Source: longest processing time first, for machine covering (Deuermeyer, Friesen and Langston 1982).
    """
    waiting = [(0.0, number) for number in numbers.tolist()]
    hosts = hosts[np.lexsort((-flow[hosts], region[hosts]))]
    for host, rate in zip(hosts.tolist(), flow[hosts].tolist(), strict=True):
        load, number = waiting[0]
        heapq.heapreplace(waiting, (load + rate, number))
        stage[host] = number


def every_stage(stage: Ints, rates: Floats, kind: Ints) -> bool:
    """Give each empty stage the host that is missed least; in place. Whether that was possible."""
    for number in range(len(kind)):
        if (stage == number).any():
            continue
        counts = np.bincount(stage[stage >= 0], minlength=len(kind))
        able = np.flatnonzero((rates[kind[number]] > 0) & ((stage < 0) | (counts[np.maximum(stage, 0)] > 1)))
        if not len(able):
            return False
        own = np.where(stage[able] >= 0, rates[kind[np.maximum(stage[able], 0)], able], 0.0)
        stage[able[int((rates[kind[number], able] - own).argmax())]] = number
    return True
