"""Whether routes can carry a rate, where connections between regions limit it: maximum flow over regions.

Hosts of a stage in one region count together: two such groups have as many connections as pairs of hosts. That is
exact for hosts alike, and generous otherwise.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, maximum_flow

from scheduler.planner.instance import Floats, Instance, Ints

_UNITS = 1_000_000
"""Flows are whole numbers for the solver; this many for the rate asked for."""
_THIN = 0.02
"""A connection with a smaller share of a usual line."""


def region_routes(shares: Floats) -> Floats:
    """How routes go from each stage to the next: within a region as far as both stages have hosts there.

    Args:
        shares: stages x regions; of each stage's rate.

    Returns:
        (stages - 1) x regions x regions, each summing up to 1, with `shares` on both sides.
    """
    stays = np.minimum(shares[:-1], shares[1:])
    leaves, enters = shares[:-1] - stays, shares[1:] - stays
    crossing = np.maximum(leaves.sum(axis=1), 1e-300)
    routes: Floats = leaves[:, :, None] * enters[:, None, :] / crossing[:, None, None]
    regions = np.arange(shares.shape[1])
    routes[:, regions, regions] += stays
    return routes


def separate(instance: Instance) -> Ints:
    """Groups of regions that had better keep their routes to themselves, the links between them being too thin.

    Returns:
        Of each region, the number of its group.
    """
    hosts, pair = instance.hosts, instance.regions.pair_bytes_per_s
    line = float(np.median(np.minimum(hosts.up_bytes_per_s, hosts.down_bytes_per_s)))
    joined = csr_array(np.minimum(pair, pair.T) >= _THIN * line)
    groups: Ints = connected_components(joined, directed=False)[1].astype(np.int64)
    return groups


def routable_rate(instance: Instance, used: Ints, stage: Ints, rates: Floats, wanted: float) -> float:
    """The rate that can be routed.

    Args:
        used: rows of hosts with a stage.
        stage, rates: of each of them.
        wanted: microbatches a second, not above any stage's sum.

    Returns:
        `wanted`, or less where links limit it.
    """
    pair_rate = np.minimum(instance.regions.pair_bytes_per_s, instance.regions.pair_bytes_per_s.T)
    if np.isinf(pair_rate).all():
        return wanted
    num_stages, num_regions = int(stage.max()) + 1, len(pair_rate)
    cell = stage * num_regions + instance.hosts.region[used]
    sums: Floats = np.bincount(cell, weights=rates, minlength=num_stages * num_regions).astype(np.float64)
    sums = sums.reshape(num_stages, num_regions)
    counts = np.bincount(cell, minlength=num_stages * num_regions).reshape(num_stages, num_regions)
    pairs = counts[:-1, :, None] * counts[1:, None, :]
    limits = np.where(pairs > 0, np.maximum(pairs, 1) * (pair_rate / instance.work.boundary_bytes), 0.0)
    # The plain routes may do already.
    if (wanted * region_routes(sums / sums.sum(axis=1, keepdims=True)) <= limits).all():
        return wanted
    return _maximum_flow(sums, np.minimum(limits, wanted), wanted)


def _maximum_flow(sums: Floats, limits: Floats, wanted: float) -> float:
    """Through a graph with an arc in every (stage, region) cell and arcs between cells of consecutive stages."""
    num_stages, num_regions = sums.shape
    cells = np.arange(num_stages * num_regions).reshape(num_stages, num_regions)
    source, sink = 2 * cells.size, 2 * cells.size + 1
    tails = [np.full(num_regions, source), cells.ravel()]
    heads = [cells[0], cells.ravel() + cells.size]
    flows = [np.full(num_regions, wanted), sums.ravel()]
    for index in range(num_stages - 1):
        one, other = np.nonzero(limits[index] > 0)
        tails.append(cells[index][one] + cells.size)
        heads.append(cells[index + 1][other])
        flows.append(limits[index][one, other])
    tails.append(cells[-1] + cells.size)
    heads.append(np.full(num_regions, sink))
    flows.append(np.full(num_regions, wanted))
    units = np.floor(np.minimum(np.concatenate(flows) / wanted, 1.0) * _UNITS).astype(np.int32)
    graph = csr_array((units, (np.concatenate(tails), np.concatenate(heads))), shape=(sink + 1, sink + 1))
    return wanted * int(maximum_flow(graph, source, sink, method="dinic").flow_value) / _UNITS
