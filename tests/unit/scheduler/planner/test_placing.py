"""Hosts of large swarms in stages: as fast as the linear programme says, whatever the lines."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from benchmarks.planner.families import FAMILIES, make
from scheduler.planner.evaluator import evaluate
from scheduler.planner.instance import Instance
from scheduler.planner.placing import place
from scheduler.planner.programmes import least
from scheduler.planner.sweeping import begun, swept

SIZES = (6, 6, 5, 5, 5, 5)
PATH_S = 1.0
SYNC_S = 33.0
"""Slow lines are left out, but few of them."""


@pytest.fixture(scope="module")
def instance() -> Instance:
    family = next(family for family in FAMILIES if family.name == "university")
    return make(family, 1500, 1)


def test_stages_are_level_and_reduce_in_time(instance: Instance) -> None:
    residence_s = PATH_S * np.linspace(1, 1 / len(SIZES), len(SIZES))
    plan = place(instance, np.array(SIZES), residence_s, SYNC_S)
    assert plan is not None
    found = evaluate(instance, plan)
    assert found.stage_rates.max() < 1.03 * found.stage_rates.min()
    # Latency comes on top of what a line takes.
    assert found.stage_reduce_s.max() < 1.03 * SYNC_S


def test_a_sweep_is_never_slower_than_its_start_and_keeps_the_stages(instance: Instance) -> None:
    start = begun(instance, SIZES, PATH_S, 0.93 * SYNC_S)
    assert start is not None
    found, plan = swept(instance, start, 0.93 * SYNC_S)
    assert found.step_s < start[0].step_s
    assert plan.sizes.tolist() == start[1].sizes.tolist()
    assert evaluate(instance, plan).step_s == found.step_s


def test_sizes_that_nobody_holds_have_no_plan(instance: Instance) -> None:
    most = int(instance.most_layers().max())
    assert most < instance.work.num_layers
    assert begun(instance, (instance.work.num_layers,), PATH_S, SYNC_S) is None


def test_a_programmes_prices_say_what_its_limits_are_worth(capfd: pytest.CaptureFixture[str]) -> None:
    """Two goods from one store, a market for so many of the second: 3 a + 5 b, a + 2 b <= 14, b <= 4."""
    matrix = csr_array(np.array([[1.0, 2.0], [0.0, 1.0]]))
    found = least(np.array([-3.0, -5.0]), matrix, np.array([14.0, 4.0]), np.array([np.inf, np.inf]))
    assert found is not None
    assert found.cost == pytest.approx(-42)
    assert found.values == pytest.approx([14, 0])
    assert found.prices == pytest.approx([3, 0])
    assert least(np.zeros(1), csr_array(np.array([[1.0]])), np.array([-1.0])) is None
    # Commands write JSON there.
    assert capfd.readouterr().out == ""
