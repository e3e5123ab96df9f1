"""Plans are explained by what their evaluation says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.planner.evaluator import evaluate
from scheduler.planner.explain import explain, what_if
from scheduler.planner.heuristic import Certified
from scheduler.planner.instance import Assignment, Hosts, Instance, Owners, Regions, Work


def swarm(memory_bytes: list[float], lines: list[float], layer_s: list[float]) -> Instance:
    """One region; two layers of 100 bytes; a host is fast or slow, and its line as well."""
    count = len(lines)
    line = np.array(lines)
    hosts = Hosts(
        tuple("abcdefgh"[:count]),
        np.array(memory_bytes),
        np.array(layer_s),
        np.zeros(count),
        line,
        line,
        np.zeros(count, np.int64),
    )
    owners = Owners(("o",), np.array([0.01]), np.array([1e4]), np.array([1e4]), np.zeros(1, np.int64))
    return Instance(hosts, owners, Regions.unlimited(), Work(2, 100.0, 1.0, 0.0, 1.0, 100.0, 100, 8))


def planned(instance: Instance, stage: list[int]) -> Certified:
    assignment = Assignment(np.array(stage), np.array([1, 1]))
    found = evaluate(instance, assignment)
    return Certified(assignment, found, found.tokens_per_s)


def test_the_parts_of_a_step_sum_up() -> None:
    instance = swarm([1e6] * 4, [1e3, 1e3, 1e3, 4.0], [0.1, 0.1, 0.2, 0.1])
    plan = planned(instance, [0, 0, 1, 1])
    for stage in explain(instance, plan).stages:
        parts = stage.compute_s + stage.line_s + stage.memory_s + stage.fill_s + stage.reduce_s + stage.idle_s
        assert parts == pytest.approx(plan.evaluation.step_s)
    first, second = explain(instance, plan).stages
    assert first.line_s == 0
    # Host d sends two bytes of each microbatch at 4 B/s: 2 of the stage's 7 microbatches a second.
    assert second.line_s == pytest.approx(second.compute_s * 2 / 5)
    assert first.idle_s > 0


def test_standbys_have_a_reason() -> None:
    instance = swarm([1e6, 1e6, 50.0, 1e6, 1e6], [1e3, 1e3, 1e3, 0.5, 1e3], [0.1] * 5)
    reasons = {each.name: each for each in explain(instance, planned(instance, [0, 1, -1, -1, -1])).standbys}
    assert reasons["c"].reason == "memory"
    assert reasons["d"].reason == "uplink"
    # A layer's gradient of 100 bytes goes out once, at half a byte a second.
    assert reasons["d"].longer_reduce_s == pytest.approx(200)
    assert reasons["d"].gain_tokens_per_s < 0
    # The other stage stays as slow, and there is an all-reduce now.
    assert reasons["e"].reason == "uplink"


def test_a_thin_connection_is_named() -> None:
    instance = swarm([1e6] * 5, [1e3] * 5, [0.1] * 5)
    thin = Regions(np.array([[0.0, 20.0], [20.0, 0.0]]), np.array([[np.inf, 1e-3], [1e-3, np.inf]]))
    far = replace(instance, regions=thin, hosts=replace(instance.hosts, region=np.array([0, 0, 0, 0, 1])))
    far = replace(far, work=replace(far.work, raw_gradient_bytes=0.0))
    (alone,) = explain(far, planned(far, [0, 0, 1, 1, -1])).standbys
    assert alone.gain_tokens_per_s < 0
    assert alone.reason in {"links", "uplink"}


def test_a_host_that_waits_for_its_line_is_badly_used() -> None:
    instance = swarm([1e6] * 3, [1e3, 1e3, 4.0], [0.1, 0.1, 0.1])
    (bad,) = explain(instance, planned(instance, [0, 1, 1])).badly_used
    assert (bad.name, bad.limit) == ("c", "line")
    assert bad.busy < 0.2


def test_one_more_host_brings_what_the_evaluator_says() -> None:
    instance = swarm([1e6] * 3, [1e3] * 3, [0.1, 0.1, 0.1])
    plan = planned(instance, [0, 0, 1])
    extra = replace(instance.hosts.take(np.array([0])), names=("x",))
    grown = swarm([1e6] * 4, [1e3] * 4, [0.1] * 4)
    better = evaluate(grown, Assignment(np.array([0, 0, 1, 1]), np.array([1, 1]))).tokens_per_s
    assert what_if(instance, plan, extra) == pytest.approx(better - plan.evaluation.tokens_per_s)
    slow = replace(extra, up_bytes_per_s=np.array([1e-3]))
    assert what_if(instance, plan, slow) == 0
