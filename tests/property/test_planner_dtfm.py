"""DT-FM's problem, solved by counting, against every partition of named nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planner.dtfm import Network, load, named, named_nodes_cost_s
from benchmarks.planner.dtfm_search import solve
from swarm.errors import ConfigError

SHAPES = [((2, 2, 2), 3), ((4, 4), 4), ((3, 3, 3), 3), ((2, 2, 2, 2), 4), ((2, 1, 1, 4), 4), ((5, 4), 3), ((8,), 2)]
"""Nodes of each region, and stages."""


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Few regions; costs from a short list, so that ties and symmetric regions are common."""
    counts, num_stages = draw(st.sampled_from(SHAPES))
    size = len(counts)
    reduce_s, hop_s = np.zeros((2, size, size))
    for costs in (reduce_s, hop_s):
        for one in range(size):
            for other in range(one, size):
                costs[one, other] = costs[other, one] = draw(st.sampled_from([0.1, 0.3, 1.0, 2.5, 7.0]))
    return Network(np.array(counts, dtype=np.int64), reduce_s, hop_s, num_stages)


def partitions(nodes: list[int], size: int) -> Iterator[list[list[int]]]:
    """Every partition into stages of a size, each once."""
    if not nodes:
        yield []
        return

    def stages(picked: list[int], start: int) -> Iterator[list[int]]:
        if len(picked) == size:
            yield picked
            return
        for index in range(start, len(nodes)):
            yield from stages([*picked, nodes[index]], index + 1)

    for stage in stages([nodes[0]], 1):
        for rest in partitions([node for node in nodes if node not in stage], size):
            yield [stage, *rest]


@settings(max_examples=30, deadline=None)
@given(networks())
def test_no_partition_is_cheaper(network: Network) -> None:
    solution = solve(network)
    expanded = named(network, solution.compositions)
    assert named_nodes_cost_s(network, expanded) == pytest.approx(solution.cost_s, rel=1e-12)
    nodes = list(range(int(network.counts.sum())))
    # Nodes of a region are alike: one partition of each kind is enough.
    region = np.repeat(np.arange(len(network.counts)), network.counts).tolist()
    kinds = {
        tuple(sorted(tuple(sorted(region[n] for n in s)) for s in p)): p
        for p in partitions(nodes, len(nodes) // network.num_stages)
    }
    assert solution.cost_s == pytest.approx(min(named_nodes_cost_s(network, p) for p in kinds.values()), rel=1e-12)


def test_what_is_no_partition_has_no_cost() -> None:
    network = Network(np.array([2, 2], dtype=np.int64), np.ones((2, 2)), np.ones((2, 2)), 2)
    with pytest.raises(ValueError, match="not a partition"):
        named_nodes_cost_s(network, [[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="differ in size"):
        named_nodes_cost_s(network, [[0], [1, 2, 3]])


def test_a_missing_file_is_a_numbered_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"S100.*--data"):
        load(tmp_path / "nothing.json")
