"""Hosts into the stages of a shape: longest-first, then moves and swaps that raise the slowest stage."""

from __future__ import annotations

import heapq

import numpy as np

from scheduler.planner.instance import Flags, Floats, Instance, Ints
from scheduler.planner.shapes import Shape, fits, flows, preference

_NOT_ALLOWED = -1.0
_EVEN = 0.9995
"""The slowest stage over the mean: not worth more moves."""
_SWAP_WIDTH = 24
"""Candidates on the slowest stage's side of a swap; eight times as many on the other."""


def fill(instance: Instance, shape: Shape, moves: int, by_region: bool) -> Ints | None:
    """Place hosts.

    Args:
        moves: at most so many improvements.
        by_region: spread each region evenly, so that routes can stay inside it; costs some balance.

    Returns:
        The stage of each host, -1 for those left out; None where a stage gets no host.
    """
    sizes = np.array(shape.sizes)
    small, large = int(sizes.min()), int(sizes.max())
    flow = {
        size: np.where(fits(instance, size, shape.sync_s), flows(instance, size, shape.path_s), 0.0)
        for size in (small, large)
    }
    stage = np.full(instance.num_hosts, -1, dtype=np.int64)
    turn = instance.hosts.region if by_region else np.zeros(instance.num_hosts, dtype=np.int64)
    if small == large:
        _longest_first(stage, turn, np.arange(instance.num_hosts), flow[small], 0, len(sizes))
    else:
        order, cut = _divide(flow[large], flow[small], sizes)
        num_large = int((sizes == large).sum())
        _longest_first(stage, turn, order[:cut], flow[large], 0, num_large)
        _longest_first(stage, turn, order[cut:], flow[small], num_large, len(sizes))
    if len(np.unique(stage[stage >= 0])) < len(sizes):
        return None
    if by_region:
        return stage
    rates = np.stack([flow[size] for size in sizes.tolist()])
    _raise_slowest(stage, np.where(rates > 0, rates, _NOT_ALLOWED), moves)
    return stage


def _divide(large_flow: Floats, small_flow: Floats, sizes: Ints) -> tuple[Ints, int]:
    """Hosts sorted by how much better they do with the large size, and how many of them get it."""
    order = np.argsort(-preference(large_flow, small_flow), kind="stable")
    num_large = int((sizes == sizes.max()).sum())
    large = np.cumsum(large_flow[order])[:-1] / num_large
    small = np.cumsum(small_flow[order][::-1])[::-1][1:] / (len(sizes) - num_large)
    return order, int(np.minimum(large, small).argmax()) + 1


def _longest_first(stage: Ints, turn: Ints, hosts: Ints, flow: Floats, first: int, last: int) -> None:
    """Always to the slowest of the stages from `first` up to `last`, turn by turn the fastest host first; in place.

    Source: longest processing time first, for machine covering (Deuermeyer, Friesen and Langston 1982).
    """
    waiting = [(0.0, number) for number in range(first, last)]
    hosts = hosts[flow[hosts] > 0]
    hosts = hosts[np.lexsort((-flow[hosts], turn[hosts]))]
    for host, rate in zip(hosts.tolist(), flow[hosts].tolist(), strict=True):
        load, number = waiting[0]
        heapq.heapreplace(waiting, (load + rate, number))
        stage[host] = number


def _raise_slowest(stage: Ints, rates: Floats, moves: int) -> None:
    """Move a host to the slowest stage, or swap one with it, as long as the slowest rate rises; in place.

    Args:
        rates: stages x hosts; negative where a host cannot be in a stage.
    """
    num_stages = len(rates)
    if num_stages < 2:
        return
    hosts = np.arange(len(stage))
    own = np.where(stage >= 0, rates[stage, hosts], 0.0)
    totals: Floats = np.zeros(num_stages)
    np.add.at(totals, stage[stage >= 0], own[stage >= 0])
    for _ in range(moves):
        if totals.min() > _EVEN * totals.mean():
            return
        slowest = int(totals.argmin())
        others = stage != slowest
        ceiling = float(np.partition(totals, 1)[1])
        floor = float(totals[slowest])
        gained = rates[slowest]
        movable = others & (gained > 0)
        left = np.where(stage >= 0, totals[stage] - own, np.inf)
        moved = np.where(movable, np.minimum(totals[slowest] + gained, left), _NOT_ALLOWED)
        best_move = int(moved.argmax())
        best, partner = min(float(moved[best_move]), ceiling), -1
        if best < ceiling:
            swapped, pair = _best_swap(stage, rates, own, totals, slowest, movable)
            if min(swapped, ceiling) > best:
                best, (best_move, partner) = min(swapped, ceiling), pair
        if best <= floor * (1 + 1e-9):
            return
        _change(stage, rates, own, totals, best_move, slowest, partner)


def _best_swap(
    stage: Ints, rates: Floats, own: Floats, totals: Floats, slowest: int, movable: Flags
) -> tuple[float, tuple[int, int]]:
    """The best lower rate of the two stages after a swap; and who comes to the slowest, who goes."""
    coming = np.flatnonzero(movable & (rates[slowest] > own.min(where=stage == slowest, initial=np.inf)))
    going = np.flatnonzero(stage == slowest)
    if not len(coming):
        return _NOT_ALLOWED, (-1, -1)
    going = going[np.argsort(own[going], kind="stable")][:_SWAP_WIDTH]
    coming = coming[np.argsort(-totals[stage[coming]], kind="stable")][: _SWAP_WIDTH * 8]
    places = stage[coming]
    back = np.where(places[:, None] >= 0, rates[places[:, None], going[None, :]], 0.0)
    here = totals[slowest] + rates[slowest, coming][:, None] - own[going][None, :]
    there = np.where(places[:, None] >= 0, totals[places][:, None] - own[coming][:, None] + back, np.inf)
    result = np.where(back < 0, _NOT_ALLOWED, np.minimum(here, there))
    row, column = np.unravel_index(int(result.argmax()), result.shape)
    return float(result[row, column]), (int(coming[row]), int(going[column]))


def _change(stage: Ints, rates: Floats, own: Floats, totals: Floats, coming: int, slowest: int, going: int) -> None:
    place = int(stage[coming])
    for host, target in ((coming, slowest), (going, place)) if going >= 0 else ((coming, slowest),):
        if stage[host] >= 0:
            totals[stage[host]] -= own[host]
        stage[host] = target
        own[host] = rates[target, host] if target >= 0 else 0.0
        if target >= 0:
            totals[target] += own[host]
