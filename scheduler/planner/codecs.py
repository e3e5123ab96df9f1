"""Which codec each peer's line takes: the finest with which neither it nor the ways to neighbours hold the plan up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.planner.evaluator import Evaluation
from scheduler.planner.instance import Assignment, Floats, Instance, Ints
from scheduler.planner.links import region_routes

_SHARE = 0.8
"""Of a line or a way, for boundary tensors: prediction is not that sure, and other things are sent, too."""


def codec_rows(
    instance: Instance, plan: Assignment, evaluation: Evaluation, sizes_bytes: Sequence[float]
) -> tuple[Ints, Ints]:
    """Choose for every peer.

    Args:
        evaluation: of the plan, with the coarsest codec everywhere.
        sizes_bytes: of one boundary tensor, the finest codec first.

    Returns:
        Places in `sizes_bytes`: for each host (the coarsest where it has no stage), and for each owner.
    """
    hosts, owners = instance.hosts, instance.owners
    used = np.flatnonzero(plan.stage >= 0)
    stage = plan.stage[used]
    rates = evaluation.rate * evaluation.host_rates[used] / evaluation.stage_rates[stage]
    owner_rates = owners.rates(instance.work.boundary_bytes)
    owner_rates = evaluation.rate * owner_rates / owner_rates.sum()
    ways, owner_ways = _ways(instance, plan, used, rates, owner_rates)
    # An activation and a gradient go each way over a line; over a way to one side, one of them.
    lines = np.minimum(hosts.up_bytes_per_s, hosts.down_bytes_per_s)[used] / 2
    owner_lines = np.minimum(owners.up_bytes_per_s, owners.down_bytes_per_s) / 2
    rows = np.full(instance.num_hosts, len(sizes_bytes) - 1, dtype=np.int64)
    rows[used] = _finest(sizes_bytes, _SHARE * np.minimum(lines, ways) / rates)
    return rows, _finest(sizes_bytes, _SHARE * np.minimum(owner_lines, owner_ways) / owner_rates)


def _finest(sizes_bytes: Sequence[float], most_bytes: Floats) -> Ints:
    fits = np.asarray(sizes_bytes)[None, :] <= most_bytes[:, None]
    rows: Ints = np.where(fits.any(axis=1), fits.argmax(axis=1), len(sizes_bytes) - 1).astype(np.int64)
    return rows


def _ways(
    instance: Instance, plan: Assignment, used: Ints, rates: Floats, owner_rates: Floats
) -> tuple[Floats, Floats]:
    """Bytes a second that the thinnest ways of each host and each owner carry, were all it sends to go over them."""
    pair = np.minimum(instance.regions.pair_bytes_per_s, instance.regions.pair_bytes_per_s.T)
    if np.isinf(pair).all():
        return np.full(len(used), np.inf), np.full(len(owner_rates), np.inf)
    num_regions, num_cells = len(pair), (plan.num_stages + 2) * len(pair)
    # Rows of cells: the owners, every stage, and the owners again.
    cells = (plan.stage[used] + 1) * num_regions + instance.hosts.region[used]
    ends = np.concatenate([instance.owners.region, (plan.num_stages + 1) * num_regions + instance.owners.region])
    sums = np.bincount(cells, rates, num_cells) + np.bincount(ends, np.tile(owner_rates, 2), num_cells)
    counts = np.bincount(cells, minlength=num_cells) + np.bincount(ends, minlength=num_cells)
    sums, counts = sums.reshape(-1, num_regions), counts.reshape(-1, num_regions)
    routes = region_routes(sums / sums.sum(axis=1, keepdims=True)) * sums[0].sum()
    carried = np.full(sums.shape, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        onward = pair * counts[1:, None, :] * sums[:-1, :, None] / routes
        back = pair * counts[:-1, :, None] * sums[1:, None, :] / routes
    carried[:-1] = np.minimum(carried[:-1], np.where(routes > 0, onward, np.inf).min(axis=2))
    carried[1:] = np.minimum(carried[1:], np.where(routes > 0, back, np.inf).min(axis=1))
    both_ends = np.minimum(carried[0], carried[-1])
    return carried.ravel()[cells], both_ends[instance.owners.region]
