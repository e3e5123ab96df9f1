"""Regions behind thin links: no price of their shares cuts off a plan, and programmes respect what they limit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.planner.families import FAMILIES, make
from scheduler.planner.bound import BoundSearch
from scheduler.planner.drift import Drift, ThinLinks
from scheduler.planner.evaluator import evaluate
from scheduler.planner.instance import Assignment, Floats, Instance, Ints
from scheduler.planner.relaxation import Prices, Relaxed
from scheduler.planner.shapes import Sizes
from scheduler.planner.spans import Spans, mean_ends_s, route_shares_s
from scheduler.planner.whole_hosts import whole_hosts
from swarm.errors import ModelTooLarge
from tests.unit.scheduler.planner.test_relaxation import HORIZONS_S, random_plan

THIN = FAMILIES[-1]


def thin(num_hosts: int, seed: int, link_mbit: float = 0.5, owners_elsewhere: float = 0.0) -> Instance:
    """Two regions; some of the owners of the first one in the second one."""
    instance = make(replace(THIN, thin_region_mbit=link_mbit), num_hosts, seed)
    region = instance.owners.region.copy()
    region[: int(owners_elsewhere * len(region))] = 1
    return replace(instance, owners=replace(instance.owners, region=region))


def bare(instance: Instance) -> Spans:
    """Without transfers and latencies on paths."""
    spans = Spans.of(instance, np.arange(instance.num_hosts))
    hop_s = spans.hop_s - route_shares_s(instance)[0][spans.host]
    return replace(spans, hop_s=hop_s, last_s=mean_ends_s(instance) / 2)


@pytest.mark.parametrize("elsewhere", [0.0, 0.5])
@pytest.mark.parametrize("link_mbit", [0.5, 5.0])
def test_no_prices_of_shares_cut_off_a_plan(link_mbit: float, elsewhere: float) -> None:
    generator = np.random.default_rng(3)
    instance = thin(64, 3, link_mbit, elsewhere)
    spans, links = bare(instance), ThinLinks(instance)
    ones, layers = np.ones(instance.num_hosts), np.arange(instance.work.num_layers + 1, dtype=np.float64)
    limited = 0
    for _ in range(12):
        plan = random_plan(instance, generator)
        found = evaluate(instance, plan)
        # What the path of just this plan leaves to crossing.
        drift = links.drift(found.fill_s - mean_ends_s(instance))
        if drift is None:
            continue
        limited += 1
        none = np.zeros(len(layers))
        for _ in range(5):
            groups = generator.exponential(1.0, (len(layers), 2)) * generator.integers(0, 2)
            prices = Prices(none, np.zeros(len(HORIZONS_S)), layers, groups)
            sync_s = float(found.stage_reduce_s.max())
            relaxed = Relaxed(spans, ones, sync_s, HORIZONS_S, drift)
            assert relaxed.most_worth(prices)(found.rate) >= instance.work.num_layers * (1 - 1e-9)
            assert relaxed.most_worths([prices], found.rate)[0] >= instance.work.num_layers * (1 - 1e-9)
            crossing = Relaxed(spans, ones, float(found.stage_reduce_s.max()), HORIZONS_S, links.on_path(drift))
            prices = Prices(none, np.zeros(len(HORIZONS_S)), generator.exponential(0.3) * layers, 10 * groups)
            path_s = mean_ends_s(instance) + crossing.least_path_s(prices)(found.rate)
            assert path_s <= found.fill_s * (1 + 1e-9)
    assert limited > 0


def test_shares_of_a_group_can_only_be_so_far_from_the_owners_() -> None:
    drift = Drift(np.array([0.75, 0.25]), 0.1, np.zeros(3))
    for share, drifts in ((0.75, 0.0), (0.65, 0.1), (0.6, 0.15), (0.85, 0.1), (0.9, 0.15)):
        shares: Floats = np.array([share, 1 - share])
        worth = [float(drift.worth(np.array([prices]))[0] @ shares) for prices in ((1.0, 0.0), (0.0, 1.0), (1.0, 2.0))]
        assert (min(worth) >= -1e-12) == (drifts <= 0.1)


def test_a_programme_s_prices_prove_what_it_finds() -> None:
    instance = thin(40, 1)
    spans, rate, sync_s = bare(instance), 50.0, 25.0
    layers: list[float] = []
    for most in (0.0, 0.02, 0.1, 0.5):
        drift = Drift(np.array([0.5, 0.5]), most, np.zeros(instance.work.num_layers + 1))
        relaxed = Relaxed(spans, np.ones(40), sync_s, HORIZONS_S, drift)
        solved = relaxed.most_layers(rate)
        assert solved is not None
        layers.append(solved.layers)
        assert relaxed.most_worth(solved.prices)(rate) == pytest.approx(solved.layers, rel=0.02)
    assert (np.diff(layers) > -1e-6).all()
    assert layers[0] < layers[-1]


def tiny(seed: int) -> Instance:
    """Four hosts of different speeds, two of them behind a thin link."""
    instance = thin(64, seed)
    generator = np.random.default_rng(seed)
    hosts = instance.hosts.take(np.arange(4))
    hosts = replace(hosts, layer_s=hosts.layer_s * generator.choice([1.0, 1.5, 3.0], 4))
    work = replace(instance.work, num_layers=4, global_batch=int(generator.choice([64, 512, 4096])))
    return replace(instance, hosts=hosts, work=work)


class _Nothing:
    """Plans that are offered change nothing."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s

    def __call__(self, stage: Ints, sizes: Sizes) -> float:
        return self._longest_s


def all_plans(instance: Instance) -> list[Assignment]:
    layers, plans = instance.work.num_layers, []
    for number in range(1, layers + 1):
        for cut in itertools.combinations(range(1, layers), number - 1):
            sizes = np.diff([0, *cut, layers])
            for stage in itertools.product(range(-1, number), repeat=instance.num_hosts):
                if set(range(number)) <= set(stage):
                    plans.append(Assignment(np.array(stage), sizes))
    return plans


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_not_below_the_best_of_all_plans(seed: int) -> None:
    instance = tiny(seed)
    best = 0.0
    for plan in all_plans(instance):
        try:
            best = max(best, evaluate(instance, plan).tokens_per_s)
        except ModelTooLarge:
            continue
    step_s = instance.work.global_batch * instance.work.microbatch_tokens / best
    for longer in (1.001, 1.1, 3.0):
        longest_s = longer * step_s
        search = BoundSearch(instance, longest_s)
        for splits, paths in ((0, False), (10, False), (40, True)):
            search.split(splits, paths)
            assert best <= search.tokens_per_s
        search.place(500, _Nothing(longest_s), lambda: False)
        assert best <= search.tokens_per_s


def test_whole_hosts_are_looked_for_in_each_region() -> None:
    instance = thin(8, 1)
    spans = bare(replace(instance, work=replace(instance.work, num_layers=4)))
    # Region 1 alone cannot do its half of what all of them together can.
    rate = 0.75 * float(spans.rates[spans.layers == 2].sum()) / 2
    weak = replace(spans, rates=np.where(spans.host % 2 == 1, 0.2 * spans.rates, spans.rates))
    for most, possible in ((0.5, True), (0.01, False)):
        drift = Drift(np.array([0.5, 0.5]), most, np.zeros(5))
        relaxed = Relaxed(weak, np.ones(8), 1e3, HORIZONS_S, drift)
        assert whole_hosts(relaxed, (2, 2), 8, 0.7 * rate)[0] == possible
