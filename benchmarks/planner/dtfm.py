"""DT-FM's placement problem: its networks, and its cost function taken literally.

Communication only: identical GPUs, no compute, no memory, transfers of one node summed. This is their objective, kept
apart from ours, so that results can be compared with theirs.

Source: Yuan et al., Decentralized Training of Foundation Models in Heterogeneous Environments, NeurIPS 2022, section 3.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from swarm.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Nodes in regions: inside a region, and between two, all pairs of nodes are alike.

    Attributes:
        counts: nodes of each region.
        reduce_s: regions x regions; what one node adds to another's all-reduce.
        hop_s: regions x regions; one activation from a node to another.
        num_stages: every stage has the same number of nodes.
    """

    counts: Ints
    reduce_s: Floats
    hop_s: Floats
    num_stages: int

    @property
    def stage_nodes(self) -> int:
        """Nodes of one stage."""
        return int(self.counts.sum()) // self.num_stages


@dataclass(frozen=True, slots=True)
class PublishedCase:
    """One of DT-FM's networks and the optimum that was proven before."""

    number: int
    network: Network
    optimum_s: float


def load(path: Path) -> list[PublishedCase]:
    """Read the networks.

    Args:
        path: `dtfm_cases.json`.

    Raises:
        ConfigError: the file is not there or not of that form.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        workload = data["workload"]
        return [
            PublishedCase(
                case["case"],
                _network(case, workload),
                float(case["results_seconds_dtfm_cost"]["exact_optimum"]["objective"]),
            )
            for case in data["cases"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} does not hold DT-FM's cases ({error!r})", "give --data PATH") from error


def _network(case: Mapping[str, Any], workload: Mapping[str, Any]) -> Network:
    groups = case["groups"]
    names = [group["name"] for group in groups]
    delay_ms, gbps = np.zeros((2, len(names), len(names)))
    if case["default_inter_group"]:
        delay_ms[:] = case["default_inter_group"]["delay_ms"]
        gbps[:] = case["default_inter_group"]["bandwidth_gbps"]
    for pair, link in case["inter_group_links"].items():
        one, other = (names.index(name) for name in pair.split("-"))
        delay_ms[one, other] = delay_ms[other, one] = link["delay_ms"]
        gbps[one, other] = gbps[other, one] = link["bandwidth_gbps"]
    np.fill_diagonal(delay_ms, [group["intra_delay_ms"] for group in groups])
    np.fill_diagonal(gbps, [group["intra_bandwidth_gbps"] for group in groups])
    part_gbit = 8 * workload["send_gradient_size_GB"] / workload["replicas_per_stage_partition_size"]
    return Network(
        counts=np.array([group["count"] for group in groups], dtype=np.int64),
        reduce_s=2 * (delay_ms / 1e3 + part_gbit / gbps),
        hop_s=delay_ms / 1e3 + 8 * workload["send_activation_size_GiB"] / gbps,
        num_stages=workload["stages_way"],
    )


def named_nodes_cost_s(network: Network, stages: Sequence[Sequence[int]]) -> float:
    """DT-FM's cost of a partition, over named nodes and by definition: slow, and independent of any search.

    Args:
        network: whose nodes are numbered region after region.
        stages: node numbers of each stage.

    Returns:
        Slowest all-reduce plus twice the cheapest open path through all stages, in seconds.

    Raises:
        ValueError: not every node is in exactly one stage, or stages differ in size.
    """
    if sorted(itertools.chain.from_iterable(stages)) != list(range(int(network.counts.sum()))):
        raise ValueError("not a partition of the nodes")
    if any(len(stage) != network.stage_nodes for stage in stages):
        raise ValueError("stages differ in size")
    region = np.repeat(np.arange(len(network.counts)), network.counts)
    members = [region[list(stage)] for stage in stages]
    reduce_s = max(
        sum(network.reduce_s[own, other] for j, other in enumerate(stage) if j != i)
        for stage in members
        for i, own in enumerate(stage)
    )
    links_s = np.array([[_bottleneck_s(network.hop_s[np.ix_(one, other)]) for other in members] for one in members])
    orders = np.array(list(itertools.permutations(range(len(members)))))
    path_s = links_s[orders[:, :-1], orders[:, 1:]].sum(axis=1).min()
    return float(reduce_s + 2 * path_s)


def _bottleneck_s(costs_s: Floats) -> float:
    """The smallest possible largest cost of a perfect matching."""
    for limit_s in np.unique(costs_s):
        matching = maximum_bipartite_matching(csr_array(costs_s <= limit_s))
        if (matching >= 0).all():
            return float(limit_s)
    raise ValueError("no perfect matching")


def named(network: Network, compositions: Sequence[Sequence[int]]) -> list[list[int]]:
    """Give names to counted nodes.

    Args:
        compositions: nodes of each region, one row a stage.

    Returns:
        Node numbers of each stage.
    """
    free = np.concatenate([[0], np.cumsum(network.counts)[:-1]])
    stages = []
    for row in compositions:
        stages.append([int(first) + node for first, count in zip(free, row, strict=True) for node in range(count)])
        free = free + np.asarray(row)
    return stages
