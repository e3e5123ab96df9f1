"""Certified plans: within memory, below the bound, repeatable, and no worse with one more peer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.planner.bound import throughput_bound
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
    try:
        return certified_plan(instance, start)
    except (ModelTooLarge, RunError):
        assume(False)
        raise


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


@settings(max_examples=15, deadline=None)
@given(instances(most_hosts=4))
def test_the_bound_is_never_below_the_best_of_all_plans(instance: Instance) -> None:
    found = planned(instance)
    best = best_tokens_per_s(instance)
    assert found.evaluation.tokens_per_s <= best * (1 + 1e-9)
    assert best <= found.bound_tokens_per_s
    # However poor the plan that it starts from.
    assert best <= throughput_bound(instance, best / 50)


@settings(max_examples=20, deadline=None)
@given(instances(most_hosts=12))
def test_plans_fit_and_repeat(instance: Instance) -> None:
    found = planned(instance)
    stage, sizes = found.assignment.stage, found.assignment.sizes
    work = instance.work
    used: Ints = np.flatnonzero(stage >= 0)
    layers = sizes[stage[used]]
    needed = work.working_bytes + layers * (work.layer_state_bytes + work.graph_bytes)
    assert (needed <= instance.hosts.memory_bytes[used] + 1e-6).all()
    in_flight = found.evaluation.host_rates[used] * found.evaluation.fill_s
    assert (in_flight <= instance.slots(used, layers) * (1 + 1e-9)).all()
    assert sizes.sum() == work.num_layers
    assert set(stage.tolist()) - {-1} == set(range(len(sizes)))
    assert 0 <= found.gap < 1
    again = planned(instance)
    assert np.array_equal(again.assignment.stage, stage)
    assert again.bound_tokens_per_s == found.bound_tokens_per_s


@settings(max_examples=20, deadline=None)
@given(instances(most_hosts=8), rows)
def test_one_more_peer_never_makes_it_worse(instance: Instance, row: tuple[float, float, float, float, int]) -> None:
    before = planned(instance)
    more = hosts_of([row])
    old = instance.hosts
    grown = replace(
        instance,
        hosts=Hosts(
            (*old.names, "new"),
            *(
                np.append(getattr(old, name), getattr(more, name))
                for name in (
                    "memory_bytes",
                    "layer_s",
                    "overhead_s",
                    "up_bytes_per_s",
                    "down_bytes_per_s",
                    "region",
                )
            ),
        ),
    )
    start = Assignment(np.append(before.assignment.stage, -1), before.assignment.sizes)
    after = planned(grown, start)
    assert after.evaluation.tokens_per_s >= before.evaluation.tokens_per_s


def test_too_few_hosts_are_refused_and_the_missing_memory_is_named() -> None:
    hosts = hosts_of([(60.0, 0.01, 60.0, 60.0, 0)] * 3)
    owners = Owners(("o",), np.array([0.01]), *np.full((2, 1), 40 * MIB), np.array([0], dtype=np.int64))
    work = Work(4, 40 * MIB, MIB, 2 * MIB, MIB, MIB, 8, 64)
    with pytest.raises(ModelTooLarge, match=r"S121.*3 of the trunk's 4 layers; 41 MiB are missing"):
        certified_plan(Instance(hosts, owners, Regions.unlimited(), work))
    with pytest.raises(RunError, match=r"S700.*4 stages.*allow 3"):
        certified_plan(Instance(hosts, owners, Regions.unlimited(), replace(work, num_stages=4)))
