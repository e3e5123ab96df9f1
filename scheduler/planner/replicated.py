"""Plans of small swarms in which every stage has a second replica: one death must not stop the run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scheduler.planner.instance import Assignment, Floats, Instance, Ints

_REPLICAS = 2


def replicated_plans(instance: Instance) -> Iterator[Assignment]:
    """For each number of stages that allows it: two hosts to every stage, then always to the slowest; layers by speed.

    Yields:
        Plans within memory; all hosts that hold a layer are used.
    """
    work = instance.work
    most = instance.most_layers()
    able = np.flatnonzero(most > 0)
    speeds: Floats = 1 / instance.hosts.layer_s
    numbers = [work.num_stages] if work.num_stages else range(1, work.num_layers + 1)
    for number in numbers:
        if _REPLICAS * number > len(able) or number > work.num_layers:
            continue
        stage = _dealt(able, speeds, number, instance.num_hosts)
        sizes = _sizes(stage, speeds, most, number, work.num_layers)
        if sizes is not None:
            yield Assignment(stage, sizes)


def _dealt(able: Ints, speeds: Floats, number: int, num_hosts: int) -> Ints:
    stage = np.full(num_hosts, -1, dtype=np.int64)
    totals, counts = np.zeros(number), np.zeros(number, dtype=np.int64)
    for host in able[np.argsort(-speeds[able], kind="stable")].tolist():
        # Two each first; the slowest takes the next.
        chosen = min(range(number), key=lambda each: (counts[each] >= _REPLICAS, totals[each], each))
        stage[host] = chosen
        totals[chosen] += speeds[host]
        counts[chosen] += 1
    return stage


def _sizes(stage: Ints, speeds: Floats, most: Ints, number: int, num_layers: int) -> Ints | None:
    """One layer each, then always to the stage that stays fastest with one more; None where memory is short."""
    totals = np.bincount(stage[stage >= 0], weights=speeds[stage >= 0], minlength=number)
    limits = np.array([most[stage == each].min() for each in range(number)])
    sizes = np.ones(number, dtype=np.int64)
    for _ in range(num_layers - number):
        costs = np.where(sizes < limits, (sizes + 1) / totals, np.inf)
        chosen = int(costs.argmin())
        if not np.isfinite(costs[chosen]):
            return None
        sizes[chosen] += 1
    return sizes
