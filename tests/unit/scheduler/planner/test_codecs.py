"""Coarse codecs go where lines are thin, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.planner.codecs import codec_rows
from scheduler.planner.evaluator import evaluate
from scheduler.planner.instance import Assignment, Floats, Hosts, Instance, Owners, Regions, Work

SIZES = (8.0, 4.0, 2.0)
PLAN = Assignment(np.array([0, 0, 1, 1, -1]), np.array([1, 1]))


def five_hosts(lines: Floats, owner_line: float = 1e6, regions: Regions | None = None) -> Instance:
    """0.1 s a layer, so 20 microbatches a second in a stage of two; a tensor takes 2 bytes at best."""
    full = np.ones(5)
    region = np.array([0, 0, 0, 0, 0]) if regions is None else np.array([0, 0, 1, 1, 1])
    hosts = Hosts(("a", "b", "c", "d", "e"), 1e9 * full, 0.1 * full, 0 * full, lines, lines, region.astype(np.int64))
    line = np.array([owner_line])
    owners = Owners(("o",), np.array([0.001]), line, line, np.zeros(1, np.int64))
    return Instance(hosts, owners, regions or Regions.unlimited(), Work(2, 100.0, 10.0, 0.0, 2.0, 100.0, 1000, 8))


def chosen(instance: Instance) -> tuple[list[int], list[int]]:
    hosts, owners = codec_rows(instance, PLAN, evaluate(instance, PLAN), SIZES)
    return hosts.tolist(), owners.tolist()


def test_fast_lines_take_the_finest() -> None:
    assert chosen(five_hosts(np.full(5, 1e6))) == ([0, 0, 0, 0, 2], [0])


def test_a_thin_line_takes_what_it_carries() -> None:
    # Ten microbatches a second, an activation and a gradient each: 160, 80 or 40 bytes a second, and a fifth to spare.
    assert chosen(five_hosts(np.array([1e6, 201.0, 1e6, 101.0, 1e6])))[0] == [0, 0, 0, 1, 2]
    assert chosen(five_hosts(np.array([1e6, 199.0, 1e6, 99.0, 1e6])))[0] == [0, 1, 0, 2, 2]


def test_an_owner_sends_everything() -> None:
    assert chosen(five_hosts(np.full(5, 1e6), owner_line=401.0))[1] == [0]
    assert chosen(five_hosts(np.full(5, 1e6), owner_line=399.0))[1] == [1]


def test_a_thin_way_between_regions_makes_both_ends_coarse() -> None:
    pair = np.array([[np.inf, 49.0], [49.0, np.inf]])
    regions = Regions(np.zeros((2, 2)), pair)
    # Four ways between the stages carry 20 a second: 40 bytes each, finest. Two lead home: 80 bytes each.
    hosts, owners = chosen(five_hosts(np.full(5, 1e6), regions=regions))
    assert hosts == [1, 1, 2, 2, 2]
    assert owners == [2]
    wide = replace(regions, pair_bytes_per_s=np.array([[np.inf, 101.0], [101.0, np.inf]]))
    assert chosen(five_hosts(np.full(5, 1e6), regions=wide)) == ([0, 0, 0, 0, 2], [0])


@given(st.lists(st.floats(50.0, 1e4), min_size=5, max_size=5))
def test_no_line_is_asked_for_more_than_it_has(lines: list[float]) -> None:
    instance = five_hosts(np.array(lines))
    found = evaluate(instance, PLAN)
    hosts, _ = codec_rows(instance, PLAN, found, SIZES)
    for row in range(4):
        rate = found.rate * found.host_rates[row] / found.stage_rates[PLAN.stage[row]]
        needed = [2 * size * rate for size in SIZES]
        assert hosts[row] == 2 or needed[hosts[row]] <= 0.8 * lines[row] * (1 + 1e-9)
        assert hosts[row] == 0 or needed[hosts[row] - 1] > 0.8 * lines[row] * (1 - 1e-9)
