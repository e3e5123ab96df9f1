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
- regions apart hold what their owners' routes need: `drift`, for stages of each size

In the last row, r is counted without `last_s`. A stage lies in the path like an interval as long as its hosts' h, and r
is at least that interval's middle. max(t - r, 0) is convex and falls with r: at the middle it is at most its mean over
the interval, and as intervals do not overlap, together they have at most its integral.

Prices of the second row leave independent choices of the hosts, so any prices >= 0 bound every plan (weak duality), and
the linear programme over a few groups of hosts finds good ones. With n stages of size k, the first row splits into
sum f = n for each k, and there are prices for stages of each size: `counts` finds which whole numbers of them no hosts
can pay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, hstack, vstack

from scheduler.planner.drift import Drift
from scheduler.planner.instance import Floats, Ints
from scheduler.planner.programmes import Answer, least
from scheduler.planner.spans import Spans


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What rows of the programme are worth, in layers or, where a path is shortened, in its seconds.

    Attributes:
        reduce: of a byte in the all-reduces of stages of each size; by size, 0 first.
        waits: of a square second, for each horizon.
        stages: of a stage of each size; by size, 0 first. Where they may be fractions, in proportion to their layers.
        groups: of shares in stages of each size by hosts of each group of regions; sizes x groups, no groups where
            routes may go anywhere.
    """

    reduce: Floats
    waits: Floats
    stages: Floats
    groups: Floats


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


class _Part(NamedTuple):
    """Spans of one size, at a rate: whose they are, their shares, and what they reduce beyond their credit."""

    size: int
    places: Ints | slice
    share: Floats
    excess: Floats
    group: Ints


class Relaxed:
    """The relaxation of some hosts, with all-reduces of some length at most.

    Attributes:
        credit: bytes that each span can send in an all-reduce.
        in_time: which spans can reduce with others.
    """

    def __init__(
        self,
        spans: Spans,
        weight: Floats,
        sync_s: float,
        horizons_s: Floats,
        drift: Drift | None = None,
    ) -> None:
        """Lay out.

        Args:
            weight: of each host: how many it stands for.
            horizons_s: for which waits are priced, ascending.
            drift: of the plans of interest, where regions are apart.
        """
        self.spans, self.drift, self._horizons_s = spans, drift, horizons_s
        self._weight = weight[: int(spans.host.max(initial=-1)) + 1]
        self._first = np.flatnonzero(np.diff(spans.host, prepend=-1))
        self._counted = self._weight[spans.host[self._first]]
        self.credit = sync_s * spans.lines
        self.in_time = spans.in_time(sync_s)
        self._parts_at: tuple[float, list[_Part]] | None = None

    def most_worth(self, prices: Prices) -> Callable[[float], float]:
        """From a rate: no plan, at least at that rate, has stages that are worth more, all together."""
        return self._best(self._worth(prices), prices)

    def most_worths(self, prices: Sequence[Prices], rate: float) -> Floats:
        """`most_worth` at one rate, for each of some prices, none of them of waits."""
        if not prices:
            return np.zeros(0)
        reduce = np.stack([each.reduce for each in prices], axis=-1)
        worths = self._worths(prices)
        best = np.zeros((len(self._counted), len(prices)))
        for part in self._parts(rate):
            if not reduce[part.size].any() and worths[part.size].max() <= 0:
                continue
            worth = worths[part.size] if self.drift is None else worths[part.size, part.group]
            scores = np.maximum(part.share * worth, 0.0) - part.excess * reduce[part.size]
            best[part.places] = np.maximum(best[part.places], scores)
        found: Floats = self._counted[self._most_first] @ best
        return found

    def _parts(self, rate: float) -> list[_Part]:
        """The spans of each size, at a rate; the last rate's are kept."""
        if self._parts_at is None or self._parts_at[0] != rate:
            share = self.shares(rate)
            # One too slow to reduce in time must be alone, and then its share is 1.
            of_use = self.in_time | (share >= 1)
            share = np.where(of_use, share, 0.0)[:, None]
            excess = np.where(of_use, self.spans.need_bytes - self.credit, 0.0)[:, None]
            parts = [
                _Part(size, places, share[rows], excess[rows], self.spans.group[rows])
                for size, rows, places in self._by_size
            ]
            self._parts_at = (rate, parts)
        return self._parts_at[1]

    @functools.cached_property
    def _most_first(self) -> Ints:
        """The hosts, those with the most spans first."""
        spans_of = np.diff(np.append(self._first, len(self.spans.host)))
        return np.argsort(-spans_of, kind="stable")

    @functools.cached_property
    def _by_size(self) -> list[tuple[int, Ints, Ints | slice]]:
        """Sizes, their spans, and the places of those spans' hosts in `_most_first`, in most cases the first ones."""
        place_of = np.empty(len(self._first), dtype=np.int64)
        place_of[self._most_first] = np.arange(len(self._first))
        place = np.repeat(place_of, np.diff(np.append(self._first, len(self.spans.host))))
        found: list[tuple[int, Ints, Ints | slice]] = []
        for size in np.unique(self.spans.layers).tolist():
            rows = np.flatnonzero(self.spans.layers == size)
            rows = rows[np.argsort(place[rows], kind="stable")]
            places = place[rows]
            found.append((size, rows, slice(len(rows)) if places[-1] == len(rows) - 1 else places))
        return found

    def least_path_s(self, prices: Prices) -> Callable[[float], float]:
        """From a rate: no plan, at least at that rate, has a shorter path, owners left out.

        Args:
            prices: of stages in proportion to their layers.
        """
        spans = self.spans
        best = self._best(self._worth(prices) - spans.hop_s, prices)
        return lambda rate: float(prices.stages[1]) * spans.num_layers - best(rate)

    def _worth(self, prices: Prices) -> Floats:
        """Of a whole share in a stage, of each span."""
        worths = self._worths([prices])[..., 0]
        worth: Floats = worths[self.spans.layers, 0 if self.drift is None else self.spans.group]
        return worth

    def _worths(self, prices: Sequence[Prices]) -> Floats:
        """Of a whole share in a stage; by its size, the group of regions, and the prices."""
        worth = np.stack([each.stages + each.reduce * self.spans.size_bytes for each in prices], axis=-1)[:, None]
        if self.drift is None:
            return worth
        shape = (self.spans.num_layers + 1, len(self.drift.owner_share))
        groups = np.stack([np.broadcast_to(each.groups, shape) for each in prices])
        return worth + np.moveaxis(self.drift.worth(groups), 0, -1)

    def _best(self, worth: Floats, prices: Prices) -> Callable[[float], float]:
        """The best of each host's spans, all together, from a rate."""
        spans, late = self.spans, ~self.in_time
        cost = prices.reduce[spans.layers] * (spans.need_bytes - self.credit)
        priced = np.flatnonzero(prices.waits > 0)
        horizons_s, waits = self._horizons_s[priced], prices.waits[priced]
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
            best = np.maximum.reduceat(scores, self._first) if len(scores) else scores
            return float((self._counted * np.maximum(best, 0.0)).sum()) + free

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

    def shares(self, rate: float) -> Floats:
        """Of a stage's microbatches, at most: as many as memory holds from the last hop until the gradient comes."""
        most = np.minimum(self.spans.rates, self.spans.slots / max(self.spans.last_s, 1e-300))
        shares: Floats = np.minimum(most / rate, 1.0)
        return shares

    def _columns(self, rate: float) -> tuple[Ints, Floats, Floats]:
        """Spans, shares, and how long graphs can be kept, the last hop left out: full shares, and horizons' shares."""
        spans = self.spans
        share = np.minimum(spans.rates / rate, 1.0)
        keep = np.flatnonzero((self.in_time | (share >= 1)) & (share > 1e-9))
        rows, shares = [keep], [share[keep]]
        kept_s = [spans.slots[keep] / (rate * share[keep]) - spans.last_s]
        full, in_time = kept_s[0].copy(), self.in_time[keep]
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
        toll = spans.need_bytes - spans.size_bytes[spans.layers] * share - self.credit[chosen]
        scale = 1 / max(float(np.abs(toll).max()), 1e-300)
        columns = np.arange(len(share))
        rows, data = [spans.host, num_hosts + spans.layers], [np.ones(len(share)), toll * scale]
        limits = np.concatenate([self._weight[:num_hosts], np.zeros(sizes), np.ones(len(horizons_s))])
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
        found, groups = self._solved(spans.hop_s * share if shortest else -held, matrix, limits, spans, share)
        if found is None:
            return None
        marginals = found.prices[: len(limits)]
        reduce, waits = marginals[num_hosts : num_hosts + sizes], marginals[num_hosts + sizes :][: len(horizons_s)]
        layer = float(marginals[-1]) if shortest else 1.0
        layers = layer * np.arange(sizes, dtype=np.float64)
        prices = Prices(reduce * scale, waits * (2 / horizons_s**2), layers, groups)
        taken = found.values[: len(share)]
        stages = np.bincount(spans.layers, weights=taken * share, minlength=sizes).astype(np.float64)
        return Solved(float((held * taken).sum()), stages, prices)

    def _solved(
        self, cost: Floats, matrix: csr_array, limits: Floats, spans: Spans, share: Floats
    ) -> tuple[Answer | None, Floats]:
        """A programme's answer, regions apart included, and what shares of their groups are worth.

        Args:
            spans, share: of the first columns.
        """
        sizes = spans.num_layers + 1
        if self.drift is None:
            return least(cost, matrix, limits), np.zeros((sizes, 1))
        rows = self.drift.rows(sizes, spans.layers, spans.group, share)
        # The columns beside the spans are none of the other rows', and the other way round.
        beside = (matrix.shape[1] - len(share), rows.shape[1] - len(share))
        matrix = vstack(
            [
                hstack([matrix, csr_array((matrix.shape[0], beside[1]))]),
                hstack([rows[:, : len(share)], csr_array((rows.shape[0], beside[0])), rows[:, len(share) :]]),
            ]
        ).tocsr()
        limits = np.concatenate([limits, np.zeros(rows.shape[0])])
        costs = np.concatenate([cost, np.repeat(self.drift.path_s, beside[1] // sizes)])
        found = least(costs, matrix, limits)
        if found is None:
            return None, np.zeros((sizes, 1))
        return found, found.prices[-rows.shape[0] :][: beside[1]].reshape(sizes, -1)

    def missing(self, rate: float, counts: Floats) -> tuple[float, Prices] | None:
        """What hosts lack for so many stages at a rate.

        Args:
            counts: of stages of each size, by size, 0 first; may be fractions.

        Returns:
            Layers, and prices at which the hosts cannot pay for them; None where no host can do anything.
        """
        share = self.shares(rate)
        chosen = np.flatnonzero((self.in_time | (share >= 1)) & (share > 1e-9) & (counts[self.spans.layers] > 0))
        if not len(chosen):
            return None
        spans, share = self.spans.take(chosen), share[chosen]
        num_hosts, sizes = int(spans.host.max()) + 1, spans.num_layers + 1
        each, columns = np.arange(sizes), np.arange(len(share))
        # Rows: hosts, all-reduces of each size, shares in stages of each size. Columns: spans, and what lacks.
        toll = spans.need_bytes - self.credit[chosen]
        scale = 1 / max(float(np.abs(toll).max()), 1e-300)
        reduce, held = num_hosts, num_hosts + sizes
        rows = [spans.host, reduce + spans.layers, held + spans.layers, held + each]
        places = [columns, columns, columns, len(share) + each]
        data = [np.ones(len(share)), toll * scale, -share, -np.ones(sizes)]
        matrix = csr_array(
            (np.concatenate(data), (np.concatenate(rows), np.concatenate(places))),
            shape=(held + sizes, len(share) + sizes),
        )
        limits = np.concatenate([self._weight[:num_hosts], counts * spans.size_bytes * scale, -counts])
        cost = np.concatenate([np.zeros(len(share)), each.astype(np.float64)])
        found, groups = self._solved(cost, matrix, limits, spans, share)
        if found is None:
            return None
        marginals = found.prices[: len(limits)]
        tolls = marginals[reduce:held] * scale
        stages = marginals[held:] - tolls * spans.size_bytes
        return found.cost, Prices(tolls, np.zeros(len(self._horizons_s)), stages, groups)
