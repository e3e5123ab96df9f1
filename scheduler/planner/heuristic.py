"""The planner for any size: shapes by estimate, hosts longest-first, local search; always with a bound and a gap.

It can be stopped at any time, is deterministic, and never returns less than the plan it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler.planner.bound import throughput_bound
from scheduler.planner.evaluator import Evaluation, evaluate
from scheduler.planner.filling import fill
from scheduler.planner.instance import Assignment, Instance
from scheduler.planner.shapes import Shape, shapes
from swarm.errors import ModelTooLarge, RunError

_MOST_WORK = 20_000
"""Hosts placed, over all shapes that are tried."""
_LEAST_SHAPES, _MOST_SHAPES = 6, 200
_MOVES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Certified:
    """A plan, what it gives, and what no plan exceeds."""

    assignment: Assignment
    evaluation: Evaluation
    bound_tokens_per_s: float

    @property
    def gap(self) -> float:
        """Share of the bound that the plan may be missing."""
        return 1 - self.evaluation.tokens_per_s / self.bound_tokens_per_s


def certified_plan(
    instance: Instance, start: Assignment | None = None, out_of_time: Callable[[], bool] = lambda: False
) -> Certified:
    """Plan, and bound the plan.

    Args:
        start: a plan to beat; hosts that are new since it was made stand by in it.
        out_of_time: asked between attempts; the first attempt is always made.

    Raises:
        ModelTooLarge: the hosts' memory does not hold the trunk.
        RunError: no owner, or no plan has the number of stages asked for.
    """
    check_possible(instance)
    best = None if start is None else (evaluate(instance, start), start)
    ranked = shapes(instance)
    number = min(max(_MOST_WORK // instance.num_hosts, _LEAST_SHAPES), _MOST_SHAPES)
    for attempt, shape in enumerate(ranked[:number]):
        if best is not None and attempt and out_of_time():
            break
        for by_region in (False, True) if len(instance.regions.latency_s) > 1 else (False,):
            best = _better(best, _attempt(instance, shape, by_region))
    if best is None:
        raise _refused(instance)
    evaluation, assignment = best
    return Certified(assignment, evaluation, throughput_bound(instance, evaluation.tokens_per_s))


def _attempt(instance: Instance, shape: Shape, by_region: bool) -> tuple[Evaluation, Assignment] | None:
    stage = fill(instance, shape, _MOVES, by_region)
    if stage is None:
        return None
    assignment = Assignment(stage, np.array(shape.sizes))
    return evaluate(instance, assignment), assignment


def _better(
    one: tuple[Evaluation, Assignment] | None, other: tuple[Evaluation, Assignment] | None
) -> tuple[Evaluation, Assignment] | None:
    if one is None or other is None:
        return one or other
    return other if other[0].tokens_per_s > one[0].tokens_per_s else one


def check_possible(instance: Instance) -> None:
    """Refuse what no plan can do.

    Raises:
        ModelTooLarge: the hosts' memory does not hold the trunk; says how much is missing.
        RunError: no owner, or more stages asked for than hosts or layers.
    """
    work = instance.work
    if not instance.num_hosts or not instance.owners.names:
        raise RunError(
            f"{instance.num_hosts} hosts and {len(instance.owners.names)} owners are here", "wait for more to join"
        )
    limit = min(work.num_layers, instance.num_hosts)
    if work.num_stages > limit:
        raise RunError(
            f"{work.num_stages} stages were asked for, but {instance.num_hosts} hosts and {work.num_layers} trunk "
            f"layers allow {limit}",
            "ask for fewer stages",
        )
    held = int(instance.most_layers().sum())
    if held < work.num_layers:
        missing = (work.num_layers - held) * (work.layer_state_bytes + work.graph_bytes)
        raise ModelTooLarge(
            f"all {instance.num_hosts} hosts together hold {held} of the trunk's {work.num_layers} layers; "
            f"{missing / 2**20:,.0f} MiB are missing",
            "let more hosts join, raise their memory limits, or make the model smaller",
        )


def _refused(instance: Instance) -> RunError:
    wish = instance.work.num_stages
    return RunError(
        f"no plan with {wish or 'any number of'} stages was found for {instance.num_hosts} hosts",
        "let more hosts join, or ask for another number of stages",
    )
