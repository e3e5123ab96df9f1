"""Synthetic swarms: device mixes, home, university and cloud lines, regions; and small ones that are hard.

Device speeds are assumed (a third of the makers' dense 16-bit figures), and so are lines; a family's figures compare
planners, they do not predict a swarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.planner.instance import Floats, Hosts, Instance, Ints, Owners, Regions, Work

_GIB = 2.0**30
_MBIT = 1e6 / 8

_DEVICES: dict[str, tuple[float, float]] = {
    "t4": (15, 20e12),
    "3060": (11.5, 17e12),
    "3090": (23, 24e12),
    "4090": (23, 55e12),
    "a100": (79, 104e12),
    "h100": (79, 330e12),
    "apple": (24, 9e12),
    "cpu": (30, 0.7e12),
}
"""Free memory in GiB, and FLOP/s on this work."""


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of swarm.

    Attributes:
        devices: shares of the kinds of `_DEVICES`.
        lines: shares of home, university and cloud.
        num_regions: hosts are spread evenly.
        thin_region_mbit: of one connection to the last region; 0 is none.
    """

    name: str
    devices: dict[str, float]
    lines: tuple[float, float, float]
    num_regions: int = 1
    staleness: int = 0
    thin_region_mbit: float = 0.0


FAMILIES: Sequence[Family] = (
    Family("cloud", {"t4": 0.3, "a100": 0.5, "h100": 0.2}, (0.0, 0.0, 1.0), num_regions=4),
    Family("university", {"3090": 0.5, "4090": 0.3, "a100": 0.2}, (0.0, 1.0, 0.0), num_regions=8),
    Family(
        "mixed",
        {"t4": 0.1, "3060": 0.2, "3090": 0.2, "4090": 0.2, "a100": 0.1, "h100": 0.05, "apple": 0.1, "cpu": 0.05},
        (0.6, 0.25, 0.15),
        num_regions=30,
    ),
    Family("home", {"3060": 0.4, "3090": 0.3, "4090": 0.2, "apple": 0.1}, (1.0, 0.0, 0.0), num_regions=10, staleness=1),
    Family("thin_region", {"3090": 0.6, "4090": 0.4}, (0.0, 1.0, 0.0), num_regions=2, thin_region_mbit=0.5),
)

_HIDDEN = 4096
_LAYERS = 32
_LAYER_PARAMETERS = 218e6
_TOKENS = 512


def make(family: Family, num_hosts: int, seed: int) -> Instance:
    """A swarm of a family for a 7B-like model (32 layers of 218 M parameters), 8-bit boundaries and gradients.

    The global batch grows with the swarm, 128 microbatches a host from 64 hosts on, so that a step takes a minute or
    more at every size. At 10,000 hosts that is more than anyone trains with today.
    """
    generator = np.random.default_rng([seed, num_hosts])
    kinds = generator.choice(list(family.devices), size=num_hosts, p=list(family.devices.values()))
    memory, speed = np.array([_DEVICES[str(kind)] for kind in kinds]).T
    up, down = _lines(generator, family, num_hosts)
    flops = (6 * _LAYER_PARAMETERS + 6 * _HIDDEN * _TOKENS) * _TOKENS
    hosts = Hosts(
        names=tuple(f"host{number:05}" for number in range(num_hosts)),
        memory_bytes=memory * _GIB,
        layer_s=flops / speed * generator.lognormal(0, 0.1, num_hosts),
        overhead_s=np.full(num_hosts, 0.01),
        up_bytes_per_s=up,
        down_bytes_per_s=down,
        region=np.arange(num_hosts, dtype=np.int64) % family.num_regions,
    )
    return Instance(
        hosts, _owners(num_hosts, family.num_regions), _regions(generator, family), _work(num_hosts, family)
    )


def _work(num_hosts: int, family: Family) -> Work:
    """A step of a swarm.

    Source: 34 bytes of graph for each token and hidden value, without attention's, which is computed again: Korthikanti
    et al., Reducing Activation Recomputation in Large Transformer Models, 2022.
    """
    return Work(
        num_layers=_LAYERS,
        layer_state_bytes=16 * _LAYER_PARAMETERS,
        graph_bytes=34.0 * _TOKENS * _HIDDEN,
        working_bytes=0.5 * _GIB,
        raw_boundary_bytes=_TOKENS * _HIDDEN * 2.0,
        boundary_ratio=2.0,
        raw_gradient_bytes=2 * _LAYER_PARAMETERS,
        gradient_ratio=2.0,
        raw_ends_gradient_bytes=2 * 262e6,
        global_batch=128 * max(num_hosts, 64),
        microbatch_tokens=_TOKENS,
        staleness=family.staleness,
    )


def _lines(generator: np.random.Generator, family: Family, num_hosts: int) -> tuple[Floats, Floats]:
    """Up and down, bytes/s: homes spread widely, universities and clouds are symmetric."""
    kind = generator.choice(3, size=num_hosts, p=family.lines)
    spread = generator.lognormal(0, 0.9, num_hosts)
    home_up, home_down = 25 * _MBIT * spread, 150 * _MBIT * spread
    symmetric = np.where(kind == 1, 600 * _MBIT, 1500 * _MBIT) * generator.lognormal(0, 0.1, num_hosts)
    return np.where(kind == 0, home_up, symmetric), np.where(kind == 0, home_down, symmetric)


def _regions(generator: np.random.Generator, family: Family) -> Regions:
    """Points on a globe's map: latency by distance, a connection's rate by latency (a window of 4 MiB)."""
    points = generator.uniform(0, 1, (family.num_regions, 2))
    distance = np.sqrt(((points[:, None] - points[None, :]) ** 2).sum(axis=2))
    latency_s = 0.005 + 0.12 * distance
    pair = 4 * 2**20 / (2 * latency_s)
    if family.thin_region_mbit:
        pair[-1, :-1] = pair[:-1, -1] = family.thin_region_mbit * _MBIT
    return Regions(latency_s, pair)


def _owners(num_hosts: int, num_regions: int) -> Owners:
    """Data owners on cloud lines; one for every 8 hosts."""
    count = max(2, num_hosts // 8)
    line = np.full(count, 1500 * _MBIT)
    region = np.arange(count, dtype=np.int64) % num_regions
    return Owners(tuple(f"owner{number:04}" for number in range(count)), np.full(count, 0.02), line, line, region)


def adversarial() -> dict[str, Instance]:
    """Small swarms that break rules of thumb."""
    base = make(FAMILIES[0], 64, 1)
    laptops = replace(base, hosts=_alike(base.hosts, layer_s=0.5))
    fast = laptops.hosts.layer_s.copy()
    fast[0] /= 100
    one_fast = replace(laptops, hosts=replace(laptops.hosts, layer_s=fast))
    line = laptops.hosts.up_bytes_per_s.copy()
    line[0] *= 100
    fat = replace(laptops, hosts=replace(laptops.hosts, up_bytes_per_s=line, down_bytes_per_s=line))
    work = base.work
    exact = work.working_bytes + 4 * (work.layer_state_bytes + work.graph_bytes)
    tight = replace(laptops, hosts=replace(laptops.hosts, memory_bytes=np.full(64, exact)))
    rows: Ints = np.arange(8, dtype=np.int64)
    return {
        "one_fast_gpu_among_laptops": one_fast,
        "one_line_100x": fat,
        "zero_margin_memory": tight,
        "as_many_hosts_as_stages": replace(tight, hosts=tight.hosts.take(rows)),
    }


def _alike(hosts: Hosts, layer_s: float) -> Hosts:
    count = len(hosts.names)
    line = np.full(count, 600 * _MBIT)
    return replace(
        hosts,
        memory_bytes=np.full(count, 24 * _GIB),
        layer_s=np.full(count, layer_s),
        up_bytes_per_s=line,
        down_bytes_per_s=line,
    )
