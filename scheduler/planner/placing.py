"""Hosts to the stages of a plan that has been evaluated, by a linear programme with fractions of hosts.

What a host can do depends on its place: it keeps graphs for as long as what follows takes, so those with few slots for
their speed belong at the end, and slow lines at the beginning. Prices of spans do not see this; here each stage has its
own residence.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from scheduler.planner.filling import every_stage, flows
from scheduler.planner.instance import Assignment, Floats, Instance, Ints
from scheduler.planner.links import separate
from scheduler.planner.shapes import classes


def place(instance: Instance, sizes: Ints, residence_s: Floats, sync_s: float) -> Assignment | None:
    """Place all hosts.

    Args:
        sizes: layers of each stage.
        residence_s: how long each keeps a microbatch, expected.
        sync_s: hosts that would reduce more slowly are left out.

    Returns:
        A plan; None where a stage gets no host.
    """
    pairs = zip(sizes.tolist(), residence_s.tolist(), strict=True)
    rates = np.stack([flows(instance, size, sync_s, stays_s) for size, stays_s in pairs])
    group = separate(instance)[instance.hosts.region]
    class_of = classes(instance) * (int(group.max()) + 1) + group
    class_of = np.unique(class_of, return_inverse=True)[1].ravel()
    taken = _taken(instance, sizes, rates, class_of, group, sync_s)
    if taken is None:
        return None
    stage = _whole(instance, sizes, rates, class_of, taken)
    if len(np.unique(stage[stage >= 0])) < len(sizes) and not every_stage(stage, rates, np.arange(len(sizes))):
        return None
    return Assignment(stage, sizes)


def _taken(instance: Instance, sizes: Ints, rates: Floats, class_of: Ints, group: Ints, sync_s: float) -> Floats | None:
    """Stages x classes: how many hosts of each, for the highest rate; None where there is none."""
    number, members = len(sizes), np.bincount(class_of)
    num_classes, groups = len(members), int(group.max()) + 1
    group_of_class = np.zeros(num_classes, dtype=np.int64)
    group_of_class[class_of] = group
    able = np.stack([np.bincount(class_of, weights=row > 0, minlength=num_classes) for row in rates])
    sums = np.stack([np.bincount(class_of, weights=row, minlength=num_classes) for row in rates])
    lines = np.bincount(class_of, weights=instance.hosts.reduce_bytes_per_s) / members
    stage, chosen = np.nonzero(able)
    speed = sums[stage, chosen] / able[stage, chosen]
    scale = 1 / max(float(speed.max(initial=0.0)), 1e-300)
    # Rows: the hosts of each class; the rate of each stage in each group; its all-reduce, in layers' gradients.
    cell = num_classes + stage * groups + group_of_class[chosen]
    columns, cells = np.arange(len(stage)), np.arange(number * groups)
    toll = sizes[stage] - sync_s / (2 * instance.work.gradient_bytes) * lines[chosen]
    rows = [chosen, cell, num_classes + number * groups + stage, num_classes + cells]
    places = [columns, columns, columns, len(stage) + cells % groups]
    data = [np.ones(len(stage)), -speed * scale, toll, np.ones(len(cells))]
    shape = (num_classes + number * groups + number, len(stage) + groups)
    matrix = csr_array((np.concatenate(data), (np.concatenate(rows), np.concatenate(places))), shape=shape)
    limits = np.concatenate([members, np.zeros(len(cells)), sizes])
    most = np.concatenate([able[stage, chosen], np.full(groups, np.inf)])
    cost = np.concatenate([np.zeros(len(stage)), np.full(groups, -1.0)])
    bounds = np.column_stack([np.zeros(len(most)), most])
    found = linprog(cost, A_ub=matrix, b_ub=limits, bounds=bounds, method="highs")
    if found.x is None:
        return None
    taken = np.zeros((number, num_classes))
    taken[stage, chosen] = found.x[: len(stage)]
    return taken


def _whole(instance: Instance, sizes: Ints, rates: Floats, class_of: Ints, taken: Floats) -> Ints:
    """Of each host, its stage; what is less than a host is kept for the next class."""
    stage = np.full(instance.num_hosts, -1, dtype=np.int64)
    # Larger stages get the faster lines of a class.
    hosts = np.lexsort((-instance.hosts.reduce_bytes_per_s, class_of))
    begins = np.concatenate([[0], np.cumsum(np.bincount(class_of))])
    order = np.argsort(-sizes, kind="stable").tolist()
    left = np.zeros(len(sizes))
    for number in range(taken.shape[1]):
        at, end = int(begins[number]), int(begins[number + 1])
        for place_of in order:
            left[place_of] += taken[place_of, number]
            whole = min(int(left[place_of] + 0.5), end - at)
            left[place_of] -= whole
            stage[hosts[at : at + whole]] = place_of
            at += whole
    used = np.flatnonzero(stage >= 0)
    stage[used[rates[stage[used], used] <= 0]] = -1
    return stage
