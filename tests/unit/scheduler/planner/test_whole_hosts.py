"""Integer programmes for whole hosts, against every way to place a few."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scheduler.planner.counts import Counts
from scheduler.planner.instance import Hosts, Instance, Ints, Owners, Regions, Work
from scheduler.planner.relaxation import Relaxed
from scheduler.planner.spans import Spans
from scheduler.planner.whole_hosts import WholeHosts, whole_hosts

SIZES = (2, 1)


def five_hosts(seed: int) -> Instance:
    generator = np.random.default_rng(seed)
    hosts = Hosts(
        tuple("abcde"),
        np.full(5, 1e9),
        generator.choice([0.1, 0.2, 0.5], 5),
        np.zeros(5),
        generator.choice([20.0, 60.0, 100.0], 5),
        np.full(5, 100.0),
        np.zeros(5, dtype=np.int64),
    )
    owners = Owners(("o",), np.array([0.01]), np.array([1e3]), np.array([1e3]), np.zeros(1, dtype=np.int64))
    return Instance(hosts, owners, Regions.unlimited(), Work(3, 100.0, 10.0, 0.0, 1.0, 100.0, 100, 8))


def relaxed(instance: Instance, sync_s: float) -> Relaxed:
    return Relaxed(Spans.of(instance, np.arange(5)), np.ones(5), sync_s, np.ones(1))


def best_rate(instance: Instance, sync_s: float) -> float:
    """Over every placing whose all-reduces take no longer."""
    hosts, best = instance.hosts, 0.0
    for stage in itertools.product((-1, 0, 1), repeat=5):
        rates = []
        for number, layers in enumerate(SIZES):
            members = [host for host in range(5) if stage[host] == number]
            lines = hosts.reduce_bytes_per_s[members]
            count = len(members)
            if count > 1 and layers * 100.0 * max(1 / lines.min(), (2 * count - 2) / lines.sum()) > sync_s:
                break
            rates.append(sum(1 / max(layers * hosts.layer_s[host], 2 / lines[i]) for i, host in enumerate(members)))
        if len(rates) == len(SIZES):
            best = max(best, min(rates))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_what_is_possible_is_found_and_what_is_not_is_excluded(seed: int) -> None:
    instance, sync_s = five_hosts(seed), 4.0
    best = best_rate(instance, sync_s)
    assert best > 0
    possible, _, stage = whole_hosts(relaxed(instance, sync_s), SIZES, 5, best * 0.999)
    assert possible
    assert stage is not None
    assert set(stage.tolist()) >= {0, 1}
    assert not whole_hosts(relaxed(instance, sync_s), SIZES, 5, best * 1.001)[0]


def test_the_rate_that_no_plan_exceeds_ends_where_one_is_possible() -> None:
    instance, sync_s = five_hosts(0), 4.0
    best = best_rate(instance, sync_s)
    found: list[Ints] = []

    def offer(stage: Ints, sizes: tuple[int, ...]) -> float:
        found.append(stage)
        return 1.0

    counts = Counts(instance)
    places = WholeHosts(counts, 5, 10_000, offer)
    rate = places.most_rate(relaxed(instance, sync_s), sync_s, best / 2, best * 2, lambda: False)
    assert rate >= best
    assert found
    assert places.longest_s == 1.0
    # Nothing is proved without a programme.
    none_left = WholeHosts(counts, 5, 0, offer)
    assert none_left.most_rate(relaxed(instance, sync_s), sync_s, best / 2, best * 2, lambda: False) == best * 2
    assert places.most_rate(relaxed(instance, sync_s), sync_s, best / 2, best * 2, lambda: True) == best * 2
