"""Hosts of a large swarm in stages of given sizes, for all-reduces of several lengths.

Of many hosts, fractions are nearly whole ones: a placing does what its linear programme says, and what is left to find
is how long all-reduces should be. Shorter ones leave out slow lines; longer ones make every step longer.
"""

from __future__ import annotations

import numpy as np

from scheduler.planner.arranging import in_turns
from scheduler.planner.evaluator import Evaluation, evaluate
from scheduler.planner.filling import ordered
from scheduler.planner.instance import Assignment, Floats, Instance, Ints
from scheduler.planner.placing import place
from scheduler.planner.shapes import Sizes

_APART = 1.15
"""Lengths are looked for from the given one divided by this to the given one times it."""
_LENGTHS = 8
_GOLDEN = (5**0.5 - 1) / 2

Found = tuple[Evaluation, Assignment]


def begun(instance: Instance, sizes: Sizes, path_s: float, sync_s: float) -> Found | None:
    """A first plan with these stages: large and small in turns, or those with little memory last; None without hosts.

    Args:
        path_s: of a plan, about.
        sync_s: hosts that would reduce more slowly are left out.
    """
    turns = in_turns(instance, sizes, path_s, sync_s)
    if turns is None:
        return None
    in_order = ordered(instance, turns[1])
    placed = _placed(instance, in_order.sizes, evaluate(instance, in_order).stage_residence_s, sync_s)
    return turns if placed is None or turns[0].step_s <= placed[0].step_s else placed


def swept(instance: Instance, start: Found, sync_s: float) -> Found:
    """The plan, or a faster one with the same stages.

    Args:
        sync_s: about as long as all-reduces should be.

    Source: golden-section search (Kiefer, 1953); steps are nearly unimodal in the length.
    """
    best, sizes = start, start[1].sizes

    def step_s(log_sync: float) -> float:
        nonlocal best
        placed = _placed(instance, sizes, best[0].stage_residence_s, float(np.exp(log_sync)))
        if placed is None:
            return np.inf
        best = min(best, placed, key=lambda each: each[0].step_s)
        return placed[0].step_s

    low, high = float(np.log(sync_s / _APART)), float(np.log(sync_s * _APART))
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    steps = [step_s(each) for each in inner]
    for _ in range(_LENGTHS - len(steps)):
        if steps[0] < steps[1]:
            high, inner[1], steps[1] = inner[1], inner[0], steps[0]
            inner[0] = high - _GOLDEN * (high - low)
            steps[0] = step_s(inner[0])
        else:
            low, inner[0], steps[0] = inner[0], inner[1], steps[1]
            inner[1] = low + _GOLDEN * (high - low)
            steps[1] = step_s(inner[1])
    return best


def _placed(instance: Instance, sizes: Ints, residence_s: Floats, sync_s: float) -> Found | None:
    plan = place(instance, sizes, residence_s, sync_s)
    return None if plan is None else (evaluate(instance, plan), plan)
