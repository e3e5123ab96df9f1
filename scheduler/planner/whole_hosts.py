"""Whether stages of given sizes can be as fast as wanted with whole hosts: integer programmes, for small swarms.

The relaxation lets hosts help several stages by fractions. Where a stage has few hosts, or one fast host among slow
ones, that is what its bound is too high by. With the sizes, the rate and the longest all-reduce given, the exact
question is small: each host in one stage at most, each stage's shares one in all, every all-reduce in time.

Source: HiGHS' branch and cut (Huangfu and Hall, Parallelizing the dual revised simplex method, 2018).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from scheduler.planner.counts import Counts
from scheduler.planner.instance import Ints
from scheduler.planner.relaxation import Relaxed
from scheduler.planner.shapes import Sizes

_NODES = 300
"""Of the search for one combination of sizes; a limit in seconds would make plans differ from run to run."""
_EASY = 2
"""Nodes that a search takes at least, so to say."""
_SAFE = 1e-5
"""Of a share: the solver's tolerances."""
_INFEASIBLE = 2
"""HiGHS' status, as SciPy numbers it."""
_UP = 0.015
"""From one rate that is tried to the next, as a share, at first; each time more by half."""


class WholeHosts:
    """Asks for combinations of sizes that prices leave, and remembers what is impossible.

    Attributes:
        left: nodes of searches.
        longest_s: steps from here on are of no interest.
    """

    def __init__(self, counts: Counts, num_hosts: int, nodes: int, offer: Callable[[Ints, Sizes], float]) -> None:
        self._counts, self._num_hosts, self._offer = counts, num_hosts, offer
        self._impossible: dict[int, list[tuple[float, float]]] = {}
        self.left, self.longest_s = nodes, np.inf

    def most_rate(
        self, relaxed: Relaxed, sync_s: float, least: float, most: float, out_of_time: Callable[[], bool]
    ) -> float:
        """A rate that no plan exceeds, from `least`, below which nothing is of interest, to `most`, which none has.

        Args:
            relaxed: all hosts.
            sync_s: of the longest all-reduce.
        """
        rate, step = min(least, most), _UP
        rows = self._counts.open(relaxed, rate).tolist()
        while rows and rate < most:
            if out_of_time():
                return most
            if self._is_impossible(relaxed, rows[0], sync_s, rate):
                rows.pop(0)
            else:
                rate, step = min(rate * (1 + step), most), 1.5 * step
                still = set(self._counts.open(relaxed, rate).tolist())
                rows = [row for row in rows if row in still]
        return rate

    def _is_impossible(self, relaxed: Relaxed, row: int, sync_s: float, rate: float) -> bool:
        known = self._impossible.setdefault(row, [])
        if any(sync_s <= longest_s and rate >= lowest for longest_s, lowest in known):
            return True
        sizes = self._counts.sizes(row)
        if not sizes or self.left <= 0:
            return False
        possible, nodes, stage = whole_hosts(relaxed, sizes, self._num_hosts, rate)
        self.left -= nodes
        if not possible:
            known.append((sync_s, rate))
        elif stage is not None:
            self.longest_s = min(self.longest_s, self._offer(stage, sizes))
        return not possible


def whole_hosts(relaxed: Relaxed, sizes: Sizes, num_hosts: int, rate: float) -> tuple[bool, int, Ints | None]:
    """Whole hosts for stages of some sizes at a rate.

    Args:
        relaxed: all hosts, with all-reduces of some length at most.
        rate: microbatches a second.

    Returns:
        Whether it may be possible; nodes of the search; and of each host its stage, -1 for standbys, if it was found.
    """
    spans, share = relaxed.spans, relaxed.shares(rate)
    # One that is too slow to reduce in time must be alone, and then does all by itself.
    able = np.flatnonzero((relaxed.in_time | (share >= 1)) & (share > _SAFE))
    of_stage = [able[spans.layers[able] == size] for size in sizes]
    chosen = np.concatenate(of_stage)
    stage = np.repeat(np.arange(len(sizes)), [len(each) for each in of_stage])
    if not len(chosen):
        return False, _EASY, None
    count, number = len(chosen), len(sizes)
    # Rows: each host once; the shares of each stage; its all-reduce.
    toll = (spans.need_bytes - relaxed.credit)[chosen] / spans.need_bytes[chosen]
    held, reduce = num_hosts, num_hosts + number
    rows = np.concatenate([spans.host[chosen], held + stage, reduce + stage])
    data = np.concatenate([np.ones(count), -share[chosen], toll])
    matrix = csr_array((data, (rows, np.tile(np.arange(count), 3))), shape=(reduce + number, count))
    limits = np.concatenate([np.ones(num_hosts), np.full(number, _SAFE - 1), np.full(number, 1 + _SAFE)])
    if relaxed.drift is not None:
        # Regions apart: the shares of each in each stage.
        least = relaxed.drift.owner_share - relaxed.drift.most
        cell = stage * len(least) + spans.group[chosen]
        shared = csr_array((-share[chosen], (cell, np.arange(count))), shape=(number * len(least), count))
        matrix = vstack([matrix, shared]).tocsr()
        limits = np.concatenate([limits, np.tile(_SAFE - least, number)])
    found = milp(
        np.zeros(count),
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, -np.inf, limits),
        options={"node_limit": _NODES},
    )
    if found.status == _INFEASIBLE:
        return False, _EASY, None
    if found.x is None:
        return True, _NODES, None
    placed = np.full(num_hosts, -1, dtype=np.int64)
    taken = np.flatnonzero(found.x > 0.5)
    late = ~relaxed.in_time[chosen[taken]]
    for part in (taken[~np.isin(stage[taken], stage[taken][late])], taken[late]):
        placed[spans.host[chosen[part]]] = stage[part]
    return True, _EASY + int(found.mip_node_count or 0), placed
