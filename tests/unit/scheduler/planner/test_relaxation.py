"""Weak duality: whatever the prices, a plan's own rate is one at which the relaxation holds all layers."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.planner.families import FAMILIES, Family, make
from scheduler.planner.evaluator import evaluate
from scheduler.planner.instance import Assignment, Floats, Instance
from scheduler.planner.relaxation import Prices, Relaxed
from scheduler.planner.spans import Spans

ANYWHERE: Floats = np.zeros((33, 1))
HORIZONS_S: Floats = np.array([0.3, 1.0, 3.0, 8.0, 20.0])


def random_plan(instance: Instance, generator: np.random.Generator) -> Assignment:
    """Stages of up to four layers, and hosts wherever their memory allows."""
    sizes = [4]
    while sum(sizes) < instance.work.num_layers:
        sizes.append(int(min(generator.integers(1, 5), instance.work.num_layers - sum(sizes))))
    stage = np.full(instance.num_hosts, -1, dtype=np.int64)
    order = generator.permutation(len(sizes)).tolist()
    # Those with the most memory first, so that no stage is empty.
    for turn, host in enumerate(np.argsort(-instance.most_layers(), kind="stable").tolist()):
        number = order[turn % len(order)]
        if sizes[number] <= instance.most_layers()[host]:
            stage[host] = number
    return Assignment(stage, np.array(sizes))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_prices_cut_off_a_plan(family: Family) -> None:
    generator = np.random.default_rng(7)
    instance = make(family, 64, 7)
    latency_s = 2 * float(np.diag(instance.regions.latency_s).min())
    spans = Spans.of(instance, np.arange(instance.num_hosts))
    for _ in range(5):
        plan = random_plan(instance, generator)
        found = evaluate(instance, plan)
        relaxed = Relaxed(spans, np.ones(instance.num_hosts), float(found.stage_reduce_s.max()) - latency_s, HORIZONS_S)
        for _ in range(5):
            reduce = generator.exponential(1e-9, instance.work.num_layers + 1) * generator.integers(0, 2)
            waits = generator.exponential(0.3, len(HORIZONS_S)) / HORIZONS_S**2 * generator.integers(0, 2, 5)
            layers = np.arange(instance.work.num_layers + 1)
            for stages in (layers.astype(np.float64), layers + generator.normal(0, 1, len(layers))):
                worth = relaxed.most_worth(Prices(reduce, waits, stages, ANYWHERE))(found.rate)
                assert worth >= float(stages[plan.sizes].sum()) * (1 - 1e-9)
            prices = Prices(reduce, waits, generator.exponential(0.3) * layers, ANYWHERE)
            assert relaxed.least_path_s(prices)(found.rate) <= found.fill_s * (1 + 1e-9)
