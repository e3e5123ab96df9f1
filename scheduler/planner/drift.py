"""Thin links: where hardly anything goes from region to region, each of them hosts the whole model for its owners.

A route that crosses a thin link takes long, so few of them may. Let d be the part of a stage's microbatches that its
hosts in some group of regions do beyond that group's share of the owners' microbatches. Routes start and end at owners,
so d of them cross twice, forward and backward each, and the path, which is an average over routes, is longer by four
transfers over the widest link between groups, times d. With a step of a certain length at most, d has a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from scheduler.planner.instance import Floats, Instance, Ints
from scheduler.planner.links import separate


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """How far the shares of each group in a stage may be from those of the owners.

    Attributes:
        owner_share: of each group of regions, of all microbatches.
        most: the shares above, less the owners', summed up over groups.
        path_s: what a stage of each size adds to the path by a whole drift at least, by size, 0 first; zeros where
            paths are not looked at.
    """

    owner_share: Floats
    most: float
    path_s: Floats

    def worth(self, prices: Floats) -> Floats:
        """What shares in stages are worth by prices of the groups' shares.

        Args:
            prices: of a group's share in stages of a size; sizes x groups.

        Returns:
            Sizes x groups; in no plan's stage are its hosts' shares worth less than 0, all together, what the path
            gets longer by included.
        """
        limit = np.maximum(prices.max(axis=-1) - self.path_s, 0.0)
        known = prices @ self.owner_share - self.most * limit
        worth: Floats = prices - known[..., None]
        return worth

    def rows(self, sizes: int, layers: Ints, group: Ints, share: Floats) -> csr_array:
        """The same as rows of a programme, none of which is above 0.

        Args:
            sizes: of stages, 0 included.
            layers, group, share: of each column.

        Returns:
            Rows for sizes x groups, then for sizes; columns for the spans given, then for sizes x groups: by how much
            a group's share is below the owners'.
        """
        groups, columns = len(self.owner_share), np.arange(len(share))
        cells, below = np.arange(sizes * groups), len(share) + np.arange(sizes * groups)
        total = len(cells) + layers
        rows = [layers * groups + number for number in range(groups)] + [total, cells, len(cells) + cells // groups]
        places = [columns] * (groups + 1) + [below, below]
        data = [(owned - (group == number)) * share for number, owned in enumerate(self.owner_share.tolist())]
        data += [-self.most * share, -np.ones(len(cells)), np.ones(len(cells))]
        shape = (len(cells) + sizes, len(share) + len(cells))
        return csr_array((np.concatenate(data), (np.concatenate(rows), np.concatenate(places))), shape=shape)


class ThinLinks:
    """What divides an instance's regions.

    Attributes:
        group: of each host, its group of regions.
    """

    def __init__(self, instance: Instance) -> None:
        group, pair = separate(instance), instance.regions.pair_bytes_per_s
        self.group: Ints = group[instance.hosts.region]
        rates = instance.owners.rates(instance.work.boundary_bytes)
        shares = np.bincount(group[instance.owners.region], weights=rates / rates.sum(), minlength=int(group.max()) + 1)
        self._num_layers = instance.work.num_layers
        self._owner_share = shares.astype(np.float64)
        widest = float(pair[group[:, None] != group[None, :]].max(initial=0.0))
        self._crossing_s = 4 * instance.work.boundary_bytes / max(widest, 1e-300) if len(shares) > 1 else 0.0

    def drift(self, spare_s: float) -> Drift | None:
        """The limit where a path may be longer by so much than without transfers; None where there is none."""
        if spare_s >= self._crossing_s:
            return None
        return Drift(self._owner_share, max(spare_s, 0.0) / self._crossing_s, np.zeros(self._num_layers + 1))

    def on_path(self, drift: Drift) -> Drift:
        """The same limit, with what it takes of the path."""
        # The stage that drifts most does so by the mean over layers at least.
        return replace(drift, path_s=self._crossing_s * np.arange(self._num_layers + 1) / self._num_layers)
