"""Hosts that are alike: kinds by memory and speed, within them by line; samples and groups of many hosts."""

from __future__ import annotations

import numpy as np

from scheduler.planner.instance import Floats, Instance, Ints

_SPEED_STEP = 1.5
"""Hosts whose speeds differ by less are of one kind."""

_LINE_STEP = 1.05
"""Groups of a kind whose lines differ by less are one."""


def by_kind(instance: Instance) -> tuple[Ints, Ints]:
    """Rows of all hosts, such that those alike are beside each other, and the number of each one's kind.

    Hosts of a kind hold as many layers and are about as fast; their lines, by which they are sorted, may differ much.
    """
    hosts = instance.hosts
    speed = np.round(np.log(hosts.layer_s) / np.log(_SPEED_STEP)).astype(np.int64)
    speed -= speed.min(initial=0)
    kind = np.unique(instance.most_layers() * (speed.max(initial=0) + 1) + speed, return_inverse=True)[1]
    order: Ints = np.lexsort((hosts.reduce_bytes_per_s, kind))
    return order, kind[order]


def sample(instance: Instance, most: int) -> tuple[Ints, float]:
    """At most so many of the hosts, evenly over the kinds, and how many each stands for."""
    order, _ = by_kind(instance)
    count = min(len(order), most)
    rows: Ints = order[np.linspace(0, len(order) - 1, count).round().astype(np.int64)]
    return rows, len(order) / count


def groups(instance: Instance, about: int) -> tuple[Ints, Floats]:
    """Of each host, its group, of the same kind and with about the same line; and how many are in each.

    Args:
        about: groups, at most so many and one for each kind.

    Those that hold no layer are in no group that counts. Few hosts are looked at one by one.
    """
    able = instance.most_layers() > 0
    if len(able) <= about:
        return np.arange(len(able)), np.ones(len(able))
    order, kind = by_kind(instance)
    order, kind = order[able[order]], kind[able[order]]
    begins = np.flatnonzero(np.diff(kind, prepend=-1))
    place = np.arange(len(order)) - np.repeat(begins, np.diff(np.append(begins, len(order))))
    firsts = np.flatnonzero(place % -(-len(order) // about) == 0)
    # Neighbours with about the same line are one group.
    line = np.floor(np.log(instance.hosts.reduce_bytes_per_s[order[firsts]]) / np.log(_LINE_STEP))
    apart = (np.diff(line, prepend=np.nan) != 0) | (np.diff(kind[firsts], prepend=-1) != 0)
    group = np.zeros(len(able), dtype=np.int64)
    group[order] = np.repeat(np.cumsum(apart) - 1, np.diff(np.append(firsts, len(order))))
    return group, np.bincount(group[order]).astype(np.float64)


def classes(instance: Instance, about: int, sizes: Ints, sync_s: float) -> Ints:
    """Of each host, the number of its class: groups, of which all can or none can reduce a stage of a size in time.

    Args:
        about: groups; of so many hosts, each is one.
        sizes: of stages.
        sync_s: the time.
    """
    if instance.num_hosts > about:
        group, _ = groups(instance, about)
    else:
        # Those alike are beside each other: what is less than a host of one class is kept for the next.
        group = np.argsort(by_kind(instance)[0])
    reduce_s = sizes[:, None] * instance.work.gradient_bytes / instance.hosts.reduce_bytes_per_s
    in_time = (reduce_s <= sync_s).sum(axis=0)
    able = instance.most_layers() > 0
    return np.unique(np.where(able, 1 + group * (len(sizes) + 1) + in_time, 0), return_inverse=True)[1].ravel()
