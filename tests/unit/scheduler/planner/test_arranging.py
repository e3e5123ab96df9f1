"""Hosts and stages find the places where memory for graphs is enough."""

from __future__ import annotations

import numpy as np

from scheduler.planner.arranging import arrange, is_short_of_memory
from scheduler.planner.evaluator import evaluate
from scheduler.planner.instance import Assignment, Hosts, Instance, Owners, Regions, Work
from scheduler.planner.placing import place

MIB = 2.0**20


def swarm() -> Instance:
    """Four hosts whose lines are slow, and four fast ones; each has memory for two layers and few graphs."""
    line = np.repeat([2.0, 40.0], 4) * MIB
    hosts = Hosts(
        tuple(f"h{number}" for number in range(8)),
        np.full(8, 100 * MIB),
        np.repeat([0.02, 0.05], 4),
        np.full(8, 0.001),
        line,
        line,
        np.zeros(8, dtype=np.int64),
    )
    owners = Owners(("o",), np.array([0.01]), *np.full((2, 1), 400 * MIB), np.array([0], dtype=np.int64))
    return Instance(hosts, owners, Regions.unlimited(), Work(4, 40 * MIB, 5 * MIB, 2 * MIB, MIB, 0.01 * MIB, 4000, 64))


def test_fast_hosts_with_little_memory_are_placed_where_graphs_are_kept_for_the_shortest_time() -> None:
    instance = swarm()
    placed = place(instance, np.array([2, 2]), np.array([2.0, 0.2]), sync_s=10.0)
    assert placed is not None
    assert set(placed.stage[:4].tolist()) == {0}
    assert 1 in placed.stage[4:]


def test_hosts_that_reduce_too_late_are_left_out() -> None:
    placed = place(swarm(), np.array([2, 2]), np.array([2.0, 0.2]), sync_s=0.005)
    assert placed is not None
    assert (placed.stage[:4] == -1).all()
    assert set(placed.stage[4:].tolist()) == {0, 1}


def test_where_no_stage_can_be_filled_there_is_no_plan() -> None:
    assert place(swarm(), np.array([3, 1]), np.array([1.0, 0.1]), sync_s=10.0) is None


def test_an_arrangement_covers_the_trunk_and_is_faster_than_a_poor_plan() -> None:
    instance = swarm()
    poor = Assignment(np.array([1, 1, 1, 1, 0, 0, 0, 0]), np.array([2, 2]))
    found = evaluate(instance, poor)
    assert is_short_of_memory(instance, poor, found)
    arranged = arrange(instance, poor, found, sync_s=10.0, tries=10)
    assert arranged is not None
    assert arranged.sizes.sum() == 4
    assert evaluate(instance, arranged).step_s < found.step_s
