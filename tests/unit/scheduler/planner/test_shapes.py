"""Shapes cover the trunk, and their programmes' hosts are those that exist."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.planner.families import FAMILIES, make
from scheduler.planner.bound import BoundSearch
from scheduler.planner.shapes import Shapes


@pytest.mark.parametrize("num_hosts", [64, 500])
def test_hosts_take_the_sizes_that_the_programme_gave_them(num_hosts: int) -> None:
    instance = make(FAMILIES[2], num_hosts, 3)
    search = BoundSearch(instance, 1e5)
    search.split(30, paths=False)
    weakest = search.weakest
    shapes = Shapes(instance, weakest.sync_s[1], np.full(len(weakest.stages), weakest.path_s))
    best, second = shapes.best(weakest.stages, 30)[:2]
    assert best.rate >= second.rate
    # No shape beats the relaxation, which has fractions of stages as well.
    assert best.rate <= weakest.rate * 1.01
    size = shapes.sizes_of_hosts(best)
    assert sum(best.sizes) == instance.work.num_layers
    assert (size <= instance.most_layers()).all()
    for layers in set(best.sizes):
        assert np.count_nonzero(size == layers) == pytest.approx(best.taken[:, layers].sum(), abs=1)
