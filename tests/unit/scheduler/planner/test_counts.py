"""Whole numbers of stages: every combination is there, and what prices cut off no plan has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.planner.families import FAMILIES, Family, make
from scheduler.planner.bound import BoundSearch
from scheduler.planner.counts import Counts
from scheduler.planner.evaluator import evaluate
from scheduler.planner.instance import Floats, Instance
from scheduler.planner.relaxation import Relaxed
from scheduler.planner.spans import Spans
from tests.unit.scheduler.planner.test_relaxation import random_plan

HORIZONS_S: Floats = np.array([1.0, 4.0])


def with_layers(instance: Instance, num_layers: int, num_stages: int = 0) -> Instance:
    return replace(instance, work=replace(instance.work, num_layers=num_layers, num_stages=num_stages))


def test_all_partitions_are_there_and_no_others() -> None:
    counts = Counts(with_layers(make(FAMILIES[0], 64, 1), 8))
    rows = {counts.sizes(row) for row in range(len(counts.whole))}
    assert len(rows) == len(counts.whole) == 22
    assert all(sum(sizes) == 8 for sizes in rows)


def test_only_the_number_of_stages_asked_for() -> None:
    counts = Counts(with_layers(make(FAMILIES[0], 64, 1), 8, num_stages=3))
    assert {counts.sizes(row) for row in range(len(counts.whole))} == {
        (6, 1, 1),
        (5, 2, 1),
        (4, 3, 1),
        (4, 2, 2),
        (3, 3, 2),
    }


def test_of_long_trunks_small_stages_come_in_fractions() -> None:
    counts = Counts(with_layers(make(FAMILIES[0], 64, 1), 90))
    layers = [float(counts.vector(row) @ np.arange(91)) for row in range(len(counts.whole))]
    assert len(layers) <= 20_000
    assert np.allclose(layers, 90)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_plan_s_own_stages_are_possible_at_its_rate(family: Family) -> None:
    instance = make(family, 40, 5)
    plan = random_plan(instance, np.random.default_rng(5))
    found = evaluate(instance, plan)
    spans = Spans.of(instance, np.arange(instance.num_hosts))
    sync_s = float(found.stage_reduce_s.max()) - 2 * float(np.diag(instance.regions.latency_s).min())
    relaxed = Relaxed(spans, np.ones(instance.num_hosts), sync_s, HORIZONS_S)
    solved = relaxed.most_layers(found.rate)
    assert solved is not None
    counts = Counts(instance)
    sizes = tuple(sorted(plan.sizes.tolist(), reverse=True))
    own = next(row for row in range(len(counts.whole)) if counts.sizes(row) == sizes)
    # Prices found at rates above, where more is impossible, must spare the plan at its own.
    for factor in (1.3, 1.1, 1.02, 1.0):
        counts.possible(relaxed, relaxed, factor * found.rate, solved.stages)
    assert own in counts.open(relaxed, found.rate)


@pytest.mark.parametrize("family", FAMILIES[:2], ids=lambda family: family.name)
def test_whole_stages_tighten_the_bound_and_groups_keep_it_valid(family: Family) -> None:
    instance = make(family, 220, 2)
    found = evaluate(instance, random_plan(instance, np.random.default_rng(2)))
    loose, tight = (BoundSearch(instance, 1.1 * found.step_s) for _ in range(2))
    loose.split(30, paths=False)
    tight.split(30, paths=False)
    tight.split(6, paths=True)
    assert found.tokens_per_s <= tight.tokens_per_s <= loose.tokens_per_s


def test_whole_stages_are_found_for_the_weakest_intervals_until_no_plan_of_interest_is_left() -> None:
    instance = make(FAMILIES[0], 220, 2)
    search = BoundSearch(instance, 1e4)
    search.split(20, paths=False)
    fractional_s = search.weakest.step_s
    search.shorten(1.05 * fractional_s)
    promising = search.promising(3)
    assert promising
    assert all(sum(box.sizes) == instance.work.num_layers for box in promising)
    assert all(1 / 1.05 < box.step_s / fractional_s < 1.05 for box in promising)
    assert not search.is_done
    search.shorten(fractional_s)
    assert search.is_done
