"""The order and the sizes of a plan's stages, by trying neighbours: two stages change places, or a layer its stage.

Where hosts keep graphs decides which stage had better come first, and no programme for prices of spans knows it. Each
attempt places all hosts anew; of large swarms, an even sample of the hosts is arranged instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from scheduler.planner.evaluator import Evaluation, evaluate, host_rates
from scheduler.planner.instance import Assignment, Floats, Instance, Ints
from scheduler.planner.kinds import sample
from scheduler.planner.placing import place
from scheduler.planner.shapes import Sizes

_MOST_HOSTS = 1000
_CLOSE = 1.05
"""Attempts that are slower by less get a second placing, with the residences that the first one led to."""
_WORSE = 0.03
"""What an arrangement may be slower by and still be gone on from, at first; less and less."""
_SHORT = 0.02
"""Of all that hosts could compute: what lacks for want of memory before arranging is worth its time."""

_Found = tuple[Evaluation, Assignment]


def arrange(instance: Instance, plan: Assignment, found: Evaluation, sync_s: float, tries: int) -> Assignment | None:
    """Arrange a plan's stages anew.

    Args:
        found: what the plan gives.
        sync_s: hosts that would reduce more slowly are left out.
        tries: arrangements to try.

    Returns:
        A plan, not always a faster one; None where the hosts could not be placed.
    """
    part = _part(instance)
    best = now = _placed(part, plan.sizes, found.stage_residence_s, sync_s, np.inf)
    generator = np.random.default_rng(0)
    for attempt in range(tries):
        if best is None or now is None:
            break
        options = list(_neighbours(now[1].sizes))
        if not options:
            break
        sizes = options[int(generator.integers(len(options)))]
        tried = _placed(part, sizes, now[0].stage_residence_s, sync_s, now[0].step_s)
        if tried is None:
            continue
        if tried[0].step_s < now[0].step_s * (1 + _WORSE * (1 - attempt / tries)):
            now = tried
        best = min(best, tried, key=lambda each: each[0].step_s)
    if best is None or part is instance:
        return None if best is None else best[1]
    whole = _placed(instance, best[1].sizes, best[0].stage_residence_s, sync_s, np.inf)
    return None if whole is None else whole[1]


def in_turns(instance: Instance, sizes: Sizes, path_s: float, sync_s: float) -> _Found | None:
    """A plan whose large and small stages take turns; None where the hosts cannot be placed.

    Args:
        path_s: of a plan, about.
        sync_s: hosts that would reduce more slowly are left out.
    """
    small_first, half = sorted(sizes), (len(sizes) + 1) // 2
    turns = np.empty(len(sizes), dtype=np.int64)
    turns[::2], turns[1::2] = small_first[:half], small_first[half:]
    return _placed(instance, turns, path_s * np.linspace(1, 1 / len(sizes), len(sizes)), sync_s, np.inf)


def is_short_of_memory(instance: Instance, plan: Assignment, found: Evaluation) -> bool:
    """Whether hosts lose much of their speed to memory for graphs, so that the stages' order matters."""
    used = np.flatnonzero(plan.stage >= 0)
    stage = plan.stage[used]
    layers = plan.sizes[stage]
    rates = host_rates(instance, used, layers)
    kept = np.minimum(rates, instance.slots(used, layers) / found.stage_residence_s[stage])
    return float((layers * kept).sum()) < (1 - _SHORT) * float((layers * rates).sum())


def _part(instance: Instance) -> Instance:
    """At most so many hosts with their share of the batch, and all owners, who then seldom limit the rate."""
    if instance.num_hosts <= _MOST_HOSTS:
        return instance
    rows, weight = sample(instance, _MOST_HOSTS)
    work = replace(instance.work, global_batch=max(1, round(instance.work.global_batch / weight)))
    return replace(instance, hosts=instance.hosts.take(rows), work=work)


def _placed(instance: Instance, sizes: Ints, residence_s: Floats, sync_s: float, step_s: float) -> _Found | None:
    """The better of one or two placings; the second one only if the first is not much slower than `step_s`."""
    first = place(instance, sizes, residence_s, sync_s)
    if first is None:
        return None
    found = evaluate(instance, first)
    if found.step_s > _CLOSE * step_s:
        return found, first
    second = place(instance, sizes, found.stage_residence_s, sync_s)
    if second is None:
        return found, first
    return min((found, first), (evaluate(instance, second), second), key=lambda each: each[0].step_s)


def _neighbours(sizes: Ints) -> Iterator[Ints]:
    """Stages that change places, then layers that change stages."""
    number = len(sizes)
    for one in range(number):
        for other in range(one + 1, number):
            if sizes[one] != sizes[other]:
                swapped = sizes.copy()
                swapped[[one, other]] = sizes[[other, one]]
                yield swapped
    for one in range(number):
        for other in range(number):
            if one != other and sizes[one] > 1:
                moved = sizes.copy()
                moved[one] -= 1
                moved[other] += 1
                yield moved
