"""Which whole numbers of stages of each size are still possible: all of them, less those that prices have cut off.

Prices of stages say what some numbers of them are worth, and the relaxation what the hosts can pay at a rate; numbers
that are worth more are impossible at that rate and above, whoever hosts what. Each programme for numbers that were
not cut off yet either finds hosts for them or new prices that cut off these and many others.

Source: Benders decomposition; prices between the numbers asked for and the fractional solution: Ben-Ameur and Neto,
Acceleration of cutting-plane and column generation algorithms, 2007.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.planner.instance import Floats, Instance, Ints
from scheduler.planner.relaxation import Prices, Relaxed

_MOST_ROWS = 20_000
"""Where there would be more combinations, small stages may come in fractions."""
_LACKING = 1e-3
"""Layers for which hosts may lack, and numbers of stages still count as possible."""
_TRIES = 60
"""Programmes for one rate."""
_SAFE = 1e-9
"""Against rounding."""
_AT_ONCE = 16
"""Prices that are looked at before what they cut off is left out."""
_BETWEEN = (0.8, 1.0)
"""Where prices are asked for, from the fractional solution to the numbers."""


class Counts:
    """All combinations of sizes that cover the trunk, and the prices found so far."""

    def __init__(self, instance: Instance) -> None:
        work = instance.work
        largest = int(instance.most_layers().max())
        # Few hosts cannot be many stages, and the admin may have asked for a number of them.
        most = work.num_stages or min(instance.num_hosts, work.num_layers)
        self._sizes = work.num_layers + 1
        self.whole, self._rest, self._below = _combinations(work.num_layers, largest, most, work.num_stages)
        self._prices: list[Prices] = []
        self._worth = np.zeros((0, len(self.whole)))

    def vector(self, row: int) -> Floats:
        """A combination as stages of each size, by size, 0 first; what is left to small stages is given to one size."""
        stages = np.zeros(self._sizes)
        stages[: self.whole.shape[1]] = self.whole[row]
        stages[self._below - 1] += self._rest[row] / max(self._below - 1, 1)
        return stages

    def sizes(self, row: int) -> tuple[int, ...]:
        """A combination's stages, large ones first; empty where some of them are fractions, or for -1."""
        if row < 0 or self._rest[row]:
            return ()
        size = np.arange(self.whole.shape[1])
        return tuple(np.repeat(size, self.whole[row])[::-1].tolist())

    def enough(self, relaxed: Relaxed, rates: Sequence[float]) -> list[int]:
        """A few of the prices that cut off as many combinations as all of them, each at the lowest of some rates.

        Args:
            rates: ascending.
        """
        chosen: list[int] = []
        left = np.arange(len(self.whole))
        for rate in rates:
            cut_off = _paid(relaxed, self._prices, rate)[:, None] < self._worth[: len(self._prices), left]
            while cut_off.any():
                chosen.append(int(cut_off.sum(axis=1).argmax()))
                missed = ~cut_off[chosen[-1]]
                cut_off, left = cut_off[:, missed], left[missed]
        return chosen

    def possible(
        self, hosts: Relaxed, groups: Relaxed, rate: float, core: Floats, known: Sequence[int] | None = None
    ) -> int:
        """A combination that nothing excludes at a rate; finds new prices on the way.

        Args:
            hosts: that have to pay.
            groups: of them, to find prices with; or the hosts themselves.
            core: stages of each size in the fractional solution, by size, 0 first.
            known: of the prices, those to begin with; all if none are named.

        Returns:
            Its row; -1 where none is left.
        """
        rows, slack = self._left(hosts, rate, self._latest_first() if known is None else known)
        for _ in range(_TRIES):
            if not len(rows):
                return -1
            best = int(slack.argmax())
            prices = self._prices_against(groups, rate, int(rows[best]), core)
            if prices is None:
                return int(rows[best])
            self._add(prices)
            slack = np.minimum(slack, _paid(hosts, [prices], rate)[0] - self._worth[len(self._prices) - 1, rows])
            if slack[best] >= 0:
                # The hosts can pay what their groups' means cannot.
                return int(rows[slack.argmax()])
            rows, slack = rows[slack >= 0], slack[slack >= 0]
        return int(rows[slack.argmax()]) if len(rows) else -1

    def open(self, hosts: Relaxed, rate: float) -> Ints:
        """Combinations that no prices exclude at a rate."""
        return self._left(hosts, rate, self._latest_first())[0]

    def _latest_first(self) -> list[int]:
        return list(range(len(self._prices)))[::-1]

    def _left(self, hosts: Relaxed, rate: float, known: Sequence[int]) -> tuple[Ints, Floats]:
        """Combinations that some prices leave, and what hosts can pay beyond their worth at the least."""
        rows, slack = np.arange(len(self.whole)), np.full(len(self.whole), np.inf)
        for begin in range(0, len(known), _AT_ONCE):
            block = list(known[begin : begin + _AT_ONCE])
            for number, most in zip(block, _paid(hosts, [self._prices[each] for each in block], rate), strict=True):
                slack = np.minimum(slack, most - self._worth[number, rows])
            rows, slack = rows[slack >= 0], slack[slack >= 0]
            if not len(rows):
                break
        return rows, slack

    def _prices_against(self, relaxed: Relaxed, rate: float, row: int, core: Floats) -> Prices | None:
        """Prices that make a combination impossible; None where there are hosts for it."""
        stages = self.vector(row)
        for part in _BETWEEN:
            found = relaxed.missing(rate, part * stages + (1 - part) * core)
            if found is None or found[0] <= _LACKING:
                continue
            prices = found[1]
            if float(prices.stages @ stages) > _paid(relaxed, [prices], rate)[0] + _LACKING / 2:
                return prices
        return None

    def _add(self, prices: Prices) -> None:
        # What is left to small stages is worth at least as much as in those of the cheapest size.
        cheapest = float((prices.stages[1 : self._below] / np.arange(1, self._below)).min()) if self._below > 1 else 0.0
        worth = self.whole @ prices.stages[: self.whole.shape[1]] + self._rest * cheapest
        if len(self._prices) == len(self._worth):
            self._worth = np.vstack([self._worth, np.empty((len(self._worth) + _AT_ONCE, len(self.whole)))])
        self._worth[len(self._prices)] = worth
        self._prices.append(prices)


def _paid(relaxed: Relaxed, prices: Sequence[Prices], rate: float) -> Floats:
    """What hosts can pay at most, rounding included."""
    paid = relaxed.most_worths(prices, rate)
    safe: Floats = paid + _SAFE * (1 + np.abs(paid))
    return safe


def _combinations(total: int, largest: int, most: int, wish: int) -> tuple[Ints, Ints, int]:
    """Whole numbers of stages, by size, 0 first; layers left to smaller stages; and the size below which those are.

    Args:
        most: stages.
        wish: exactly so many stages, or 0.
    """
    counts, left, below = np.zeros((1, largest + 1), dtype=np.int64), np.array([total], dtype=np.int64), largest + 1
    for size in range(largest, 0, -1):
        # Ones have no choice: they fill up.
        options = np.ones(len(left), dtype=np.int64) if size == 1 else left // size + 1
        if options.sum() > _MOST_ROWS:
            break
        before = np.repeat(np.arange(len(left)), options)
        many = np.arange(len(before)) - np.repeat(np.cumsum(options) - options, options)
        if size == 1:
            many = left
        counts, left, below = counts[before], left[before] - many * size, size
        counts[:, size] = many
        number = counts.sum(axis=1)
        # Stages that are still to come have less than this size.
        fewest = number + (-(-left // (size - 1)) if size > 1 else 0)
        keep = (fewest <= most) & (number + left >= wish)
        counts, left = counts[keep], left[keep]
    return counts, left, below
