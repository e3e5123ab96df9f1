"""Small swarms: every small change of a plan, judged by the evaluator itself, until none helps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scheduler.planner.evaluator import evaluate
from scheduler.planner.instance import Assignment, Instance, Ints
from swarm.errors import ModelTooLarge


def polish(instance: Instance, plan: Assignment, evaluations: int) -> Assignment:
    """Change a plan as long as that makes it faster.

    Args:
        evaluations: at most so many plans are looked at.
    """
    best, best_tokens = plan, evaluate(instance, plan).tokens_per_s
    most = instance.most_layers()
    left = evaluations
    improved = True
    while improved and left > 0:
        improved = False
        for changed in _changes(best, instance.work.num_stages == 0):
            used = changed.stage >= 0
            if (changed.sizes[changed.stage[used]] > most[used]).any():
                continue
            left -= 1
            if left < 0:
                break
            try:
                tokens = evaluate(instance, changed).tokens_per_s
            except ModelTooLarge:
                continue
            if tokens > best_tokens * (1 + 1e-9):
                best, best_tokens, improved = changed, tokens, True
                break
    return best


def _changes(plan: Assignment, any_number: bool) -> Iterator[Assignment]:
    """Plans beside this one: a host elsewhere, two exchanged, a layer shifted, stages in another order, one more, one
    less.
    """
    stage, sizes = plan.stage, plan.sizes
    counts = np.bincount(stage[stage >= 0], minlength=len(sizes))
    for host in range(len(stage)):
        if stage[host] < 0 or counts[stage[host]] > 1:
            for target in range(-1, len(sizes)):
                if target != stage[host]:
                    yield Assignment(_with(stage, host, target), sizes)
    for host in np.flatnonzero(stage >= 0).tolist():
        # Alone, it needs no all-reduce.
        if counts[stage[host]] > 2:
            yield Assignment(_with(np.where(stage == stage[host], -1, stage), host, int(stage[host])), sizes)
    for host in range(len(stage)):
        for other in range(host):
            if stage[host] != stage[other]:
                yield Assignment(_with(_with(stage, host, stage[other]), other, stage[host]), sizes)
    for one in range(len(sizes)):
        for other in range(len(sizes)):
            if one != other and sizes[one] > 1:
                yield Assignment(stage, _with(_with(sizes, one, sizes[one] - 1), other, sizes[other] + 1))
            if one < other:
                order = np.arange(len(sizes))
                order[[one, other]] = order[[other, one]]
                yield Assignment(np.where(stage < 0, -1, order[stage]), sizes[order])
    if any_number:
        yield from _renumbered(plan, counts)


def _renumbered(plan: Assignment, counts: Ints) -> Iterator[Assignment]:
    """With two stages merged, or one split between its hosts."""
    stage, sizes = plan.stage, plan.sizes
    number = len(sizes)
    for one in range(number):
        for other in range(one + 1, number):
            merged = np.where(stage == other, one, stage)
            merged = np.where(merged > other, merged - 1, merged)
            yield Assignment(merged, np.delete(_with(sizes, one, sizes[one] + sizes[other]), other))
            # One of the two stands by, and the other's hosts take all layers.
            for gone, kept in ((one, other), (other, one)):
                alone = np.where(stage == gone, -1, np.where(stage == kept, one, stage))
                alone = np.where(alone > other, alone - 1, alone)
                yield Assignment(alone, np.delete(_with(sizes, one, sizes[one] + sizes[other]), other))
    for one in range(number):
        for host in np.flatnonzero((stage == one) | (stage < 0)).tolist():
            if sizes[one] < 2 or (stage[host] == one and counts[one] < 2):
                continue
            split = _with(np.where(stage > one, stage + 1, stage), host, one + 1)
            for layers in range(1, int(sizes[one])):
                yield Assignment(split, np.insert(_with(sizes, one, sizes[one] - layers), one + 1, layers))


def _with(values: Ints, place: int, value: int) -> Ints:
    changed = values.copy()
    changed[place] = value
    return changed
