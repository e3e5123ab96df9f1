"""Shapes worth trying: how many stages of each size, by a linear programme with fractions of hosts.

The relaxation says how many stages of each size it would have, in fractions. The search starts from whole numbers
beside them and goes to neighbours as long as the programme's rate rises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, vstack

from scheduler.planner.instance import Floats, Instance, Ints
from scheduler.planner.kinds import classes
from scheduler.planner.programmes import least
from scheduler.planner.spans import Spans

Sizes = tuple[int, ...]
"""Layers of each stage, large ones first."""
_CLASSES = 192
"""Of hosts, about."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What to fill with hosts.

    Attributes:
        sizes: layers of each stage, large ones first.
        sync_s: hosts that would reduce their layers more slowly are left out.
        residence_s: how long stages of each size keep a microbatch, expected; by size, 0 first.
        rate: microbatches a second, with fractions of hosts.
        taken: classes x sizes, 0 first: how many hosts of each class take each size.
    """

    sizes: Sizes
    sync_s: float
    residence_s: Floats
    rate: float
    taken: Floats


class Shapes:
    """Searches shapes for one instance and one limit on all-reduces."""

    def __init__(self, instance: Instance, sync_s: float, residence_s: Floats) -> None:
        self._instance, self.sync_s, self._residence_s = instance, sync_s, residence_s
        self._class_of = classes(instance, _CLASSES, np.arange(1, instance.work.num_layers + 1), sync_s)
        self._members = np.bincount(self._class_of)
        number = len(self._members)
        spans = Spans.of(instance, np.arange(instance.num_hosts))
        spans = spans.take(spans.need_bytes <= 2 * sync_s * spans.lines * (1 + 1e-9))
        slots = instance.slots(spans.host, spans.layers)
        flows = np.minimum(spans.rates, slots / residence_s[spans.layers])
        # One column for each class and size, with the means of those who can.
        width = instance.work.num_layers + 1
        key = self._class_of[spans.host] * width + spans.layers
        counts = np.bincount(key, minlength=number * width)
        columns = np.flatnonzero(counts)
        self._class, self._layers = columns // width, columns % width
        self._most = counts[columns].astype(np.float64)
        self._flow = np.bincount(key, weights=flows, minlength=number * width)[columns] / self._most
        self._line = np.bincount(key, weights=spans.lines, minlength=number * width)[columns] / self._most
        self._found: dict[Sizes, Shape | None] = {}

    def best(self, stages: Floats, tries: int) -> list[Shape]:
        """Shapes, best first.

        Args:
            stages: of each size, in fractions, by size, 0 first; where to begin.
            tries: programmes to solve.
        """
        waiting = self.beside(stages)
        seen: set[Sizes] = set()
        while waiting and len(self._found) < tries:
            for sizes in waiting:
                if len(self._found) < tries:
                    self._found[sizes] = self.solve(sizes)
            fresh = next((shape for shape in self._ranked() if shape.sizes not in seen), None)
            if fresh is None or len(seen) >= 4 + tries // 20:
                break
            seen.add(fresh.sizes)
            waiting = [sizes for sizes in self._neighbours(fresh.sizes) if sizes not in self._found]
        return self._ranked()

    def sizes_of_hosts(self, shape: Shape) -> Ints:
        """Of each host, the size it takes; 0 stands by.

        Within a class, larger sizes get the faster lines.
        """
        size = np.zeros(self._instance.num_hosts, dtype=np.int64)
        order = np.lexsort((-self._instance.hosts.reduce_bytes_per_s, self._class_of))
        begins = np.concatenate([[0], np.cumsum(self._members)])
        left = np.zeros(shape.taken.shape[1])
        for number in np.flatnonzero(shape.taken.sum(axis=1) > 1e-9).tolist():
            at, end = int(begins[number]), int(begins[number + 1])
            for layers in np.flatnonzero(shape.taken[number])[::-1].tolist():
                # What is less than a host is kept for the next class.
                left[layers] += shape.taken[number, layers]
                whole = min(int(left[layers] + 0.5), end - at)
                left[layers] -= whole
                size[order[at : at + whole]] = layers
                at += whole
        return size

    def _ranked(self) -> list[Shape]:
        return sorted((shape for shape in self._found.values() if shape), key=lambda shape: (-shape.rate, shape.sizes))

    def _allowed(self, sizes: Sizes) -> bool:
        wish = self._instance.work.num_stages
        return len(sizes) <= self._instance.num_hosts and wish in (0, len(sizes))

    def beside(self, stages: Floats) -> list[Sizes]:
        """Whole numbers beside the fractions: thresholds at which to round up, and the rest filled in."""
        total = self._instance.work.num_layers
        found: list[Sizes] = []
        for threshold in np.linspace(0.05, 0.95, 10).tolist():
            counts = np.floor(stages + 1 - threshold).astype(int)
            sizes = [size for size in range(len(counts)) for _ in range(counts[size])]
            while sum(sizes) > total and sizes:
                over = sum(sizes) - total
                sizes.remove(min(sizes, key=lambda size: (abs(size - over), size)))
            if sum(sizes) < total:
                sizes.extend(_parts(total - sum(sizes), max(sizes, default=1)))
            found.append(_shape(sizes))
        if not any(set(sizes) <= set(self._layers.tolist()) for sizes in found):
            # The relaxation counts on hosts that are alone in their stages; equal cuts do without them.
            found.extend(_shape(_parts(total, size)) for size in range(1, int(self._layers.max(initial=0)) + 1))
        wish = self._instance.work.num_stages
        if wish:
            found.append(_shape([total // wish + (index < total % wish) for index in range(wish)]))
        return [sizes for sizes in dict.fromkeys(found) if self._allowed(sizes)]

    def _neighbours(self, sizes: Sizes) -> Iterator[Sizes]:
        """A layer from one stage to another; two stages merged; one split; two sizes for two others."""
        kinds = sorted(set(sizes))
        largest = int(self._layers.max(initial=0))
        found: dict[Sizes, None] = {}
        for one in kinds:
            rest = list(sizes)
            rest.remove(one)
            for other in sorted(set(rest)):
                last = list(rest)
                last.remove(other)
                both = one + other
                pairs = [[part, both - part] for part in range(1, both // 2 + 1) if both - part <= largest]
                if both <= largest:
                    pairs.append([both])
                for pair in pairs:
                    found[_shape([*last, *pair])] = None
            for part in range(1, one // 2 + 1):
                found[_shape([*rest, part, one - part])] = None
        return (each for each in found if self._allowed(each))

    def solve(self, sizes: Sizes) -> Shape | None:
        """The highest rate with fractions of hosts; None where some stage gets none."""
        kinds, counts = np.unique(np.array(sizes), return_counts=True)
        keep = np.flatnonzero(np.isin(self._layers, kinds))
        if len(np.unique(self._layers[keep])) < len(kinds):
            return None
        kind = np.searchsorted(kinds, self._layers[keep])
        need = 2 * self._instance.work.gradient_bytes
        speed = 1 / float(self._flow[keep].max())
        number, classes, columns = len(kinds), len(self._members), np.arange(len(keep))
        # Rows: the hosts of each class; the rate of each size; its all-reduces, in layers' gradients.
        rows = [self._class[keep], classes + kind, classes + number + kind, classes + np.arange(number)]
        places = [columns, columns, columns, np.full(number, len(keep))]
        toll = self._layers[keep] - self.sync_s / need * self._line[keep]
        data = [np.ones(len(keep)), -self._flow[keep] * speed, toll, counts.astype(np.float64)]
        matrix = csr_array(
            (np.concatenate(data), (np.concatenate(rows), np.concatenate(places))),
            shape=(classes + 2 * number, len(keep) + 1),
        )
        limits = np.concatenate([self._members, np.zeros(number), kinds * counts])
        # Who can take a size can take all smaller ones.
        partial = np.flatnonzero(self._most[keep] < self._members[self._class[keep]])
        larger = (self._class[keep] == self._class[keep][partial, None]) & (kind >= kind[partial, None])
        most = np.append(self._most[keep], np.inf)
        cost = np.append(np.zeros(len(keep)), -1.0)
        if len(partial):
            matrix = vstack([matrix, csr_array(np.pad(larger.astype(np.float64), ((0, 0), (0, 1))))]).tocsr()
            limits = np.concatenate([limits, self._most[keep][partial]])
        found = least(cost, matrix, limits, most)
        if found is None or found.values[-1] <= 0:
            return None
        taken = np.zeros((classes, self._instance.work.num_layers + 1))
        taken[self._class[keep], self._layers[keep]] = found.values[:-1]
        return Shape(sizes, self.sync_s, self._residence_s, float(found.values[-1] / speed), taken)


def _shape(sizes: list[int]) -> Sizes:
    return tuple(sorted(sizes, reverse=True))


def _parts(total: int, largest: int) -> list[int]:
    """Equal parts, as few as can be."""
    number = -(-total // largest)
    return [total // number + (index < total % number) for index in range(number)]
