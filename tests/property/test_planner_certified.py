"""Certified plans: within memory, below the bound, repeatable, near the best, and no worse with one more peer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.planner.bound import BoundSearch
from scheduler.planner.evaluator import evaluate
from scheduler.planner.heuristic import Certified, certified_plan
from scheduler.planner.instance import Assignment, Hosts, Instance, Ints, Owners, Regions, Work
from swarm.errors import ModelTooLarge, RunError

MIB = 2.0**20


def hosts_of(rows: list[tuple[float, float, float, float, int]]) -> Hosts:
    """From (memory in MiB, seconds a layer, uplink, downlink in MiB/s, region)."""
    memory, layer_s, up, down, region = (np.array(column) for column in zip(*rows, strict=True))
    return Hosts(
        tuple(f"h{number}" for number in range(len(rows))),
        memory * MIB,
        layer_s.astype(np.float64),
        np.full(len(rows), 0.001),
        up * MIB,
        down * MIB,
        region.astype(np.int64),
    )


rows = st.tuples(
    st.sampled_from([60.0, 130.0, 250.0, 900.0]),
    st.sampled_from([0.01, 0.05, 0.3]),
    st.sampled_from([0.5, 4.0, 60.0]),
    st.sampled_from([3.0, 80.0]),
    st.integers(0, 1),
)


@st.composite
def instances(draw: st.DrawFn, most_hosts: int) -> Instance:
    """Small: two regions, all kinds of hosts, staleness and codecs."""
    hosts = hosts_of(draw(st.lists(rows, min_size=1, max_size=most_hosts)))
    latency_s = np.array([[0.001, 0.08], [0.08, 0.002]])
    pair = np.full((2, 2), np.inf)
    pair[0, 1] = pair[1, 0] = draw(st.sampled_from([np.inf, 2 * MIB, 0.2 * MIB]))
    owners = Owners(("o0", "o1"), np.array([0.002, 0.01]), *np.full((2, 2), 40 * MIB), np.array([0, 1], dtype=np.int64))
    work = Work(
        num_layers=draw(st.integers(1, 3)),
        layer_state_bytes=40 * MIB,
        graph_bytes=draw(st.sampled_from([1.0, 15.0])) * MIB,
        working_bytes=2 * MIB,
        raw_boundary_bytes=0.5 * MIB,
        boundary_ratio=draw(st.sampled_from([1.0, 2.0])),
        raw_gradient_bytes=draw(st.sampled_from([1.0, 30.0])) * MIB,
        raw_ends_gradient_bytes=MIB,
        global_batch=draw(st.sampled_from([4, 40, 1000])),
        microbatch_tokens=64,
        staleness=draw(st.integers(0, 1)),
    )
    return Instance(hosts, owners, Regions(latency_s, pair), work)


def planned(instance: Instance, start: Assignment | None = None) -> Certified:
    """Plan; whatever is asked of the plan, it has to fit."""
    try:
        found = certified_plan(instance, start)
    except (ModelTooLarge, RunError):
        assume(False)
        raise
    stage, sizes = found.assignment.stage, found.assignment.sizes
    work = instance.work
    used: Ints = np.flatnonzero(stage >= 0)
    layers = sizes[stage[used]]
    needed = work.working_bytes + layers * (work.layer_state_bytes + work.graph_bytes)
    assert (needed <= instance.hosts.memory_bytes[used] + 1e-6).all()
    in_flight = found.evaluation.host_rates[used] * found.evaluation.stage_residence_s[stage[used]]
    assert (in_flight <= instance.slots(used, layers) * (1 + 1e-9)).all()
    assert sizes.sum() == work.num_layers
    assert set(stage.tolist()) - {-1} == set(range(len(sizes)))
    assert 0 <= found.gap < 1
    return found


def best_tokens_per_s(instance: Instance) -> float:
    """Over every plan there is."""
    best = 0.0
    layers = instance.work.num_layers
    for num_stages in range(1, layers + 1):
        for sizes in itertools.product(range(1, layers + 1), repeat=num_stages):
            if sum(sizes) != layers:
                continue
            for stage in itertools.product(range(-1, num_stages), repeat=instance.num_hosts):
                if set(range(num_stages)) <= set(stage):
                    try:
                        found = evaluate(instance, Assignment(np.array(stage), np.array(sizes)))
                    except ModelTooLarge:
                        continue
                    best = max(best, found.tokens_per_s)
    return best


@settings(max_examples=12, deadline=None)
@given(instances(most_hosts=4))
def test_the_bound_is_never_below_the_best_of_all_plans(instance: Instance) -> None:
    found = planned(instance)
    best = best_tokens_per_s(instance)
    assert found.evaluation.tokens_per_s <= best * (1 + 1e-9)
    assert best <= found.bound_tokens_per_s
    # However poor the plan that it starts from.
    search = BoundSearch(instance, 50 * instance.work.global_batch * instance.work.microbatch_tokens / best)
    for splits, paths in ((0, False), (10, False), (10, True), (40, True)):
        search.split(splits, paths)
        assert best <= search.tokens_per_s


def check_repeats(instance: Instance) -> None:
    found, again = planned(instance), planned(instance)
    assert np.array_equal(again.assignment.stage, found.assignment.stage)
    assert again.bound_tokens_per_s == found.bound_tokens_per_s


@settings(max_examples=5, deadline=None)
@given(instances(most_hosts=12))
def test_plans_fit_and_repeat(instance: Instance) -> None:
    check_repeats(instance)


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(instances(most_hosts=12))
def test_many_plans_fit_and_repeat(instance: Instance) -> None:
    check_repeats(instance)


def grown(instance: Instance, row: tuple[float, float, float, float, int]) -> Instance:
    """With one more host."""
    more, old = hosts_of([row]), instance.hosts
    names = ("memory_bytes", "layer_s", "overhead_s", "up_bytes_per_s", "down_bytes_per_s", "region")
    columns = (np.append(getattr(old, name), getattr(more, name)) for name in names)
    return replace(instance, hosts=Hosts((*old.names, "new"), *columns))


def check_one_more(instance: Instance, row: tuple[float, float, float, float, int]) -> None:
    before = planned(instance)
    start = Assignment(np.append(before.assignment.stage, -1), before.assignment.sizes)
    after = planned(grown(instance, row), start)
    assert after.evaluation.tokens_per_s >= before.evaluation.tokens_per_s


@settings(max_examples=8, deadline=None)
@given(instances(most_hosts=6), rows)
def test_one_more_peer_never_makes_it_worse(instance: Instance, row: tuple[float, float, float, float, int]) -> None:
    check_one_more(instance, row)


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(instances(most_hosts=12), rows)
def test_one_more_of_many_peers_neither(instance: Instance, row: tuple[float, float, float, float, int]) -> None:
    check_one_more(instance, row)


@pytest.mark.parametrize("row", [(60.0, 0.3, 0.5, 3.0, 0), (900.0, 0.01, 60.0, 80.0, 1), (10.0, 0.01, 60.0, 80.0, 0)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nor_when_planned_afresh(seed: int, row: tuple[float, float, float, float, int]) -> None:
    instance = apart(4, 3, seed)
    instance = replace(instance, hosts=replace(instance.hosts, region=np.array([0, 1, 0, 1])))
    before, after = certified_plan(instance), certified_plan(grown(instance, row))
    # A second replica of each stage may cost this much.
    assert after.evaluation.tokens_per_s >= 0.98 * before.evaluation.tokens_per_s


def apart(num_hosts: int, num_layers: int, seed: int) -> Instance:
    """Every peer is its own region, with its own rate and latency to every other."""
    generator = np.random.default_rng(seed)
    hosts = Hosts(
        tuple(f"h{number}" for number in range(num_hosts)),
        generator.choice([130.0, 250.0, 500.0], num_hosts) * MIB,
        generator.choice([0.01, 0.02, 0.05], num_hosts) * generator.lognormal(0, 0.1, num_hosts),
        np.full(num_hosts, 0.001),
        generator.lognormal(2, 1, num_hosts) * MIB,
        generator.lognormal(3, 0.5, num_hosts) * MIB,
        np.arange(num_hosts, dtype=np.int64),
    )
    peers = num_hosts + 2
    latency_s = generator.uniform(0.002, 0.1, (peers, peers))
    latency_s = (latency_s + latency_s.T) / 2
    np.fill_diagonal(latency_s, 0.0005)
    pair = generator.lognormal(1.5, 1.2, (peers, peers)) * MIB
    np.fill_diagonal(pair, np.inf)
    lines = np.full((2, 2), 40 * MIB)
    owners = Owners(("o0", "o1"), np.array([0.002, 0.01]), *lines, np.arange(num_hosts, peers))
    work = Work(num_layers, 40 * MIB, 4 * MIB, 2 * MIB, 0.5 * MIB, 10 * MIB, 200, 64, MIB)
    return Instance(hosts, owners, Regions(latency_s, np.minimum(pair, pair.T)), work)


@pytest.mark.parametrize(("num_hosts", "num_layers", "seed"), [(2, 3, 1), (3, 3, 2), (4, 3, 3), (4, 3, 4), (5, 3, 0)])
def test_few_peers_that_are_all_apart_are_planned_almost_best(num_hosts: int, num_layers: int, seed: int) -> None:
    instance = apart(num_hosts, num_layers, seed)
    best = best_tokens_per_s(instance)
    found = certified_plan(instance)
    assert found.evaluation.tokens_per_s >= 0.95 * best
    assert found.bound_tokens_per_s >= best


def test_no_stage_has_one_replica_where_two_cost_next_to_nothing() -> None:
    # The fast host alone does as much as a stage of two slow ones; with a third slow one it need not be alone.
    rows_of = [(60.0, 0.01, 60.0, 60.0, 0)] + [(60.0, 0.02, 60.0, 60.0, 0)] * 3
    owners = Owners(("o",), np.array([0.001]), *np.full((2, 1), 400 * MIB), np.array([0], dtype=np.int64))
    work = Work(2, 40 * MIB, MIB, 2 * MIB, 0.01 * MIB, 0.01 * MIB, 10_000, 64)
    found = certified_plan(Instance(hosts_of(rows_of), owners, Regions.unlimited(), work))
    stage = found.assignment.stage
    assert np.bincount(stage[stage >= 0]).tolist() == [2, 2]


def test_too_few_hosts_are_refused_and_the_missing_memory_is_named() -> None:
    hosts = hosts_of([(60.0, 0.01, 60.0, 60.0, 0)] * 3)
    owners = Owners(("o",), np.array([0.01]), *np.full((2, 1), 40 * MIB), np.array([0], dtype=np.int64))
    work = Work(4, 40 * MIB, MIB, 2 * MIB, MIB, MIB, 8, 64)
    with pytest.raises(ModelTooLarge, match=r"S121.*3 of the trunk's 4 layers; 41 MiB are missing"):
        certified_plan(Instance(hosts, owners, Regions.unlimited(), work))
    with pytest.raises(RunError, match=r"S700.*4 stages.*allow 3; 41 MiB are missing"):
        certified_plan(Instance(hosts, owners, Regions.unlimited(), replace(work, num_stages=4)))
    large = hosts_of([(900.0, 0.01, 60.0, 60.0, 0)] * 3)
    with pytest.raises(RunError, match=r"S700.*4 stages.*allow 3; 41 MiB are missing"):
        certified_plan(Instance(large, owners, Regions.unlimited(), replace(work, num_stages=4)))
    with pytest.raises(RunError, match=r"S700.*2 stages.*2 of its 3 layers; 41 MiB are missing"):
        certified_plan(Instance(hosts, owners, Regions.unlimited(), replace(work, num_layers=3, num_stages=2)))


def test_a_swarm_without_a_host_to_spare_is_bounded_by_its_first_stage() -> None:
    # Each holds one layer and one graph: the first is kept for as long as all four stages take.
    hosts = hosts_of([(43.5, 0.05, 60.0, 60.0, 0)] * 4)
    owners = Owners(("o",), np.array([0.01]), *np.full((2, 1), 40 * MIB), np.array([0], dtype=np.int64))
    work = Work(4, 40 * MIB, MIB, 2 * MIB, 0.01 * MIB, MIB, 1000, 64)
    found = certified_plan(Instance(hosts, owners, Regions.unlimited(), work))
    assert found.assignment.num_stages == 4
    assert found.gap < 0.05
