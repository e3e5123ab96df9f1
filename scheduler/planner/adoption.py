"""What to take over from a full solve: the stages matched to those that are there, then what gains most for its bytes.

A solve numbers its stages anew and places everybody; adopted whole, most of the swarm would fetch state. Stages with
equally many layers are alike, so its labels are matched to where its hosts are already, and then a move, or an
exchange of two hosts, is taken over at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from scheduler.planner.moves import LEAST_REPLICAS, Economy
from scheduler.planner.occupancy import Occupancy, Occupant, Phase

_MISMATCH = 1e18
"""Bytes; stages of other sizes never match."""
_EXCHANGED = 32
"""Hosts tried on either side of an exchange."""

Step = tuple[tuple[Occupant, int], ...]
"""A host and its new stage, once or twice."""


def relabelled(places: Occupancy, target: Mapping[str, int], sizes: Sequence[int]) -> dict[str, int] | None:
    """A solve's stages under the numbers of those that are there, so that the least state moves.

    Args:
        target: stage of each host that has one.
        sizes: layers of each of the solve's stages.

    Returns:
        Stages by host; None where the trunk is cut otherwise, so that no stage is worth keeping.
    """
    if sorted(sizes) != sorted(places.sizes):
        return None
    layers = np.array(sizes, dtype=np.float64)
    cost = np.where(layers[:, None] == np.array(places.sizes)[None, :], 0.0, _MISMATCH)
    for name, stage in target.items():
        host = places.hosts.get(name)
        if host is not None:
            cost[stage] += places.state_bytes(0) / places.sizes[0] * layers[stage]
            if host.stage >= 0:
                cost[stage, host.stage] -= places.state_bytes(host.stage)
    _, matched = linear_sum_assignment(cost)
    return {name: int(matched[stage]) for name, stage in target.items() if name in places.hosts}


def best_step(places: Occupancy, economy: Economy, wanted: Mapping[str, int], most: int, budget_bytes: float) -> Step:
    """The move towards a solve, or the exchange, that gains most for its bytes; nothing where none pays.

    Args:
        wanted: stages by host.
        most: moves left, 1 or 2.
        budget_bytes: that may still be fetched.
    """
    reduce_s = economy.slowest_reduce_s()
    slowest = min(range(len(places.planned)), key=places.planned.__getitem__)
    coming: list[tuple[Occupant, int]] = []
    going: list[tuple[Occupant, int]] = []
    for name, stage in wanted.items():
        host = places.hosts[name]
        if stage == host.stage or not _is_free(places, host, stage):
            continue
        if stage == slowest:
            coming.append((host, stage))
        elif host.stage == slowest:
            going.append((host, stage))
    coming = sorted(coming, key=lambda move: (-move[0].rates[slowest], move[0].name))[:_EXCHANGED]
    going = sorted(going, key=lambda move: (move[0].rates[slowest], move[0].name))[:_EXCHANGED]
    steps: list[Step] = [(move,) for move in coming]
    if most > 1:
        steps += [(enters, leaves) for enters in coming for leaves in going]
    best: Step = ()
    highest = 0.0
    for step in steps:
        num_bytes = sum(economy.fetch(host, stage)[1] for host, stage in step)
        if num_bytes <= budget_bytes:
            net = economy.step_net(step, places.planned, reduce_s)
            if net / max(num_bytes, 1.0) > highest:
                best, highest = step, net / max(num_bytes, 1.0)
    return best


def _is_free(places: Occupancy, host: Occupant, stage: int) -> bool:
    """Whether the host may begin to move there."""
    if host.phase not in (Phase.SERVING, Phase.STANDBY) or host.rates[stage] <= 0:
        return False
    return host.stage < 0 or places.num_staying(host.stage) > LEAST_REPLICAS
