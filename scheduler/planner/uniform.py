"""The plan that knows nothing of speeds: as many hosts and layers to every stage. For comparison."""

from __future__ import annotations

import numpy as np

from scheduler.planner.evaluator import evaluate
from scheduler.planner.feasible import check_possible
from scheduler.planner.heuristic import Certified, certified_plan
from scheduler.planner.instance import Assignment, Instance


def uniform_plan(instance: Instance) -> Certified:
    """Deal hosts out, one stage after the other, and cut the trunk evenly.

    The number of stages is the one asked for, or that of the certified plan. The bound is the certified plan's.

    Raises:
        ModelTooLarge: memory does not hold it.
        RunError: as `certified_plan`.
    """
    check_possible(instance)
    certified = certified_plan(instance)
    number = instance.work.num_stages or certified.assignment.num_stages
    bounds = np.linspace(0, instance.work.num_layers, number + 1).round().astype(np.int64)
    assignment = Assignment(np.arange(instance.num_hosts, dtype=np.int64) % number, np.diff(bounds))
    return Certified(assignment, evaluate(instance, assignment), certified.bound_tokens_per_s)
