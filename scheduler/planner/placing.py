"""Hosts to the stages of a plan that has been evaluated, by a linear programme with fractions of hosts.

What a host can do depends on its place: it keeps graphs for as long as what follows takes, so those with few slots for
their speed belong at the end, and slow lines at the beginning. Prices of spans do not see this; here each stage has its
own residence.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from scheduler.planner.filling import every_stage, flows
from scheduler.planner.instance import Assignment, Floats, Instance, Ints
from scheduler.planner.kinds import classes
from scheduler.planner.links import separate
from scheduler.planner.programmes import least

_CLASSES, _ALIKE = 192, 10
"""Of hosts, about: so many, or of many hosts one for every few of them."""


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
    about = max(_CLASSES, instance.num_hosts // _ALIKE)
    class_of = classes(instance, about, np.unique(sizes), sync_s) * (int(group.max()) + 1) + group
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
    found = least(cost, matrix, limits, most)
    if found is None:
        return None
    taken = np.zeros((number, num_classes))
    taken[stage, chosen] = found.values[: len(stage)]
    return taken


def _whole(instance: Instance, sizes: Ints, rates: Floats, class_of: Ints, taken: Floats) -> Ints:
    """Of each host, its stage; every stage gets an even sample of the lines of each class, and the slowest stand by."""
    members = np.bincount(class_of)
    quotas = _quotas(members, taken, np.argsort(-sizes, kind="stable"))
    # The hosts of a class, slow lines first, are dealt out as evenly as their numbers allow.
    stage_of, class_row = np.nonzero(quotas)
    count = quotas[stage_of, class_row]
    dealt = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    position = (dealt + 0.5) / np.repeat(count, count)
    stage_of, class_row = np.repeat(stage_of, count), np.repeat(class_row, count)
    stands_by = stage_of == len(taken)
    order = np.lexsort((stage_of, np.where(stands_by, 0.0, position), class_row))
    stage = np.empty(instance.num_hosts, dtype=np.int64)
    hosts = np.lexsort((instance.hosts.reduce_bytes_per_s, class_of))
    stage[hosts] = np.where(stands_by, -1, stage_of)[order]
    used = np.flatnonzero(stage >= 0)
    stage[used[rates[stage[used], used] <= 0]] = -1
    return stage


def _quotas(members: Ints, taken: Floats, order: Ints) -> Ints:
    """Whole hosts of each class for each stage, in some order of these, and for none; what is less than a host is kept
    for the next class."""
    quotas = np.zeros((len(taken) + 1, len(members)), dtype=np.int64)
    left = np.zeros(len(taken))
    for number, free in enumerate(members.tolist()):
        for stage in order[taken[order, number] > 0].tolist():
            left[stage] += taken[stage, number]
            whole = min(int(left[stage] + 0.5), free)
            left[stage] -= whole
            free -= whole
            quotas[stage, number] = whole
        quotas[-1, number] = free
    return quotas
