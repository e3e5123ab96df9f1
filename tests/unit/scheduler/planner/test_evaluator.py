"""The evaluator against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.planner.evaluator import evaluate, reduce_fractions
from scheduler.planner.instance import Assignment, Hosts, Instance, Owners, Regions, Work
from scheduler.planner.links import separate
from swarm.errors import ModelTooLarge, RunError


def four_hosts(memory_bytes: float = 1e9) -> Instance:
    """Alike: 0.1 s a layer, 10 B/s; two layers; 1-byte activations; 100 bytes of gradient a layer."""
    full = np.ones(4)
    hosts = Hosts(
        ("a", "b", "c", "d"), memory_bytes * full, 0.1 * full, 0 * full, 10 * full, 10 * full, np.zeros(4, np.int64)
    )
    owners = Owners(("o",), np.array([0.01]), np.array([1e3]), np.array([1e3]), np.zeros(1, np.int64))
    return Instance(hosts, owners, Regions.unlimited(), Work(2, 100.0, 10.0, 0.0, 1.0, 100.0, 100, 8))


PLAN = Assignment(np.array([0, 0, 1, 1]), np.array([1, 1]))


def test_a_step_is_streaming_filling_and_reducing() -> None:
    found = evaluate(four_hosts(), PLAN)
    # A host sends two bytes at 10 B/s for each microbatch: 0.2 s, slower than its 0.1 s of computing.
    assert found.rate == pytest.approx(10)
    assert found.limit == "stage"
    # Two layers, the ends, and three hops each way, each as slow as a host's line.
    assert found.fill_s == pytest.approx(0.2 + 0.01 + 6 * 0.1)
    # Two members: everything once each way.
    assert found.sync_s == pytest.approx(100 / 10)
    assert found.step_s == pytest.approx(100 / 10 + 0.81 + 10)
    late = four_hosts()
    late = replace(late, work=replace(late.work, staleness=1))
    assert evaluate(late, PLAN).step_s == pytest.approx(10.81)


def test_memory_limits_what_is_in_flight() -> None:
    # One microbatch in each host: two a stage for as long as the first stage keeps one, all but the first hop.
    found = evaluate(four_hosts(memory_bytes=110.0), PLAN)
    assert found.stage_residence_s == pytest.approx([0.61, 0.31])
    assert found.rate == pytest.approx(2 / 0.61)
    with pytest.raises(ModelTooLarge, match="S121"):
        evaluate(four_hosts(memory_bytes=109.0), PLAN)


def test_windows_are_some_fills_as_far_as_memory_goes() -> None:
    # Ten microbatches a second, 0.81 s through the pipeline: 8.1 fill it, and there is memory for four times as many.
    assert evaluate(four_hosts(), PLAN).window(1, 100) == 33
    assert evaluate(four_hosts(), PLAN).window(2, 100) == 17
    assert evaluate(four_hosts(), PLAN).window(1, 20) == 20, "no more than a step has"
    # A slot in each host: what memory lets through fills the pipeline once, and nothing is to spare.
    short = evaluate(four_hosts(memory_bytes=110.0), PLAN)
    assert short.spare_fills == pytest.approx(1.0)
    assert short.window(1, 100) == 3


def test_an_empty_stage_is_no_plan() -> None:
    with pytest.raises(RunError, match="S700"):
        evaluate(four_hosts(), Assignment(np.array([0, 0, 0, -1]), np.array([1, 1])))


def test_fractions_let_all_members_finish_together() -> None:
    lines = np.array([4.0, 5.0, 7.0])
    shares = reduce_fractions(lines)
    assert shares.sum() == pytest.approx(1)
    assert (1 + shares) / lines == pytest.approx(np.full(3, 4 / 16))
    assert reduce_fractions(np.array([1.0, 100.0, 100.0]))[0] == pytest.approx(0)


def test_routes_stay_at_home_where_links_between_regions_are_thin() -> None:
    instance = four_hosts()
    # Hosts a and c are in one region, b and d in the other; d computes one layer a second, the lines allow five.
    slow = replace(instance.hosts, layer_s=np.array([0.1, 0.1, 0.1, 1.0]), region=np.array([0, 1, 0, 1]))
    thin = Regions(np.zeros((2, 2)), np.array([[np.inf, 1e-3], [1e-3, np.inf]]))
    many = replace(instance.work, global_batch=10**9)
    found = evaluate(replace(instance, hosts=slow, regions=thin, work=many), PLAN)
    assert found.rate == pytest.approx(5 + 1)
    # Host b gets no more than d can take from it.
    assert found.host_rates == pytest.approx([5, 1, 5, 1])


def test_a_region_without_owners_idles_where_its_way_to_them_costs_more_than_it_brings() -> None:
    instance = four_hosts()
    slow = replace(instance.hosts, layer_s=np.array([0.1, 0.1, 0.1, 1.0]), region=np.array([0, 1, 0, 1]))
    thin = Regions(np.zeros((2, 2)), np.array([[np.inf, 1e-3], [1e-3, np.inf]]))
    # All owners are with hosts a and c; the pipeline's fill over the thin link would take longer than the whole batch.
    found = evaluate(replace(instance, hosts=slow, regions=thin), PLAN)
    assert found.rate == pytest.approx(5)
    assert found.host_rates == pytest.approx([5, 0, 5, 0], abs=1e-6)


def test_memory_that_limits_a_stage_drives_no_routes_over_thin_links() -> None:
    instance = four_hosts()
    # Host a has memory for one microbatch; each region has an owner.
    memory = np.array([110.0, 1e9, 1e9, 1e9])
    hosts = replace(instance.hosts, memory_bytes=memory, region=np.array([0, 1, 0, 1]))
    full = np.ones(2)
    owners = Owners(("o", "p"), 0.01 * full, 1e3 * full, 1e3 * full, np.array([0, 1]))
    thin = Regions(np.zeros((2, 2)), np.array([[np.inf, 1e-3], [1e-3, np.inf]]))
    found = evaluate(replace(instance, hosts=hosts, owners=owners, regions=thin), PLAN)
    assert found.fill_s < 1
    assert found.host_rates == pytest.approx(np.full(4, 1 / found.stage_residence_s[0]))


def test_regions_with_thin_links_are_separate() -> None:
    instance = four_hosts()
    pair = np.array([[np.inf, 5.0, 0.1], [5.0, np.inf, 0.1], [0.1, 0.1, np.inf]])
    apart = replace(instance, regions=Regions(np.zeros((3, 3)), pair))
    first, second, third = separate(apart).tolist()
    assert first == second != third
