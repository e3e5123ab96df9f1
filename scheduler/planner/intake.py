"""What hosts claim to have measured, before a planner believes it: refused, or clamped and reported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from scheduler.planner.instance import Hosts
from swarm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Measured:
    """One host's own figures; the fields of `Hosts`, for one."""

    name: str
    memory_bytes: float
    layer_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float
    overhead_s: float = 0.0
    region: int = 0


_PLAUSIBLE = {
    "memory_bytes": (0.0, 2.0**44),
    "layer_s": (1e-7, 1e6),
    "up_bytes_per_s": (1.0, 1e11),
    "down_bytes_per_s": (1.0, 1e11),
    "overhead_s": (0.0, 1e5),
}
"""What a machine can have; outside, a figure is clamped to the nearer end."""


def hosts_of(claims: Sequence[Measured], num_regions: int = 1) -> tuple[Hosts, tuple[str, ...]]:
    """Check and lay out measurements.

    Args:
        num_regions: regions that are known.

    Returns:
        The hosts, and a sentence for each figure that was clamped.

    Raises:
        ConfigError: a figure that is no number, infinite or negative, an unknown region, or a name given twice.
    """
    notes = [note for claim in claims for note in _check(claim, num_regions)]
    names = tuple(claim.name for claim in claims)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{twice} is there twice", "give each peer once")
    columns = {
        name: np.clip(np.array([getattr(claim, name) for claim in claims], dtype=np.float64), *limits)
        for name, limits in _PLAUSIBLE.items()
    }
    region = np.array([claim.region for claim in claims], dtype=np.int64)
    return Hosts(names=names, region=region, **columns), tuple(notes)


def claims_of(hosts: Hosts) -> list[Measured]:
    """The other way round: one host after another."""
    columns = {name: getattr(hosts, name).tolist() for name in (*_PLAUSIBLE, "region")}
    return [
        Measured(name=name, **{column: values[row] for column, values in columns.items()})
        for row, name in enumerate(hosts.names)
    ]


def _check(claim: Measured, num_regions: int) -> list[str]:
    if not 0 <= claim.region < num_regions:
        raise ConfigError(f"{claim.name} is in region {claim.region} of {num_regions}", "name a known region")
    notes = []
    for name in (field.name for field in fields(claim) if field.name in _PLAUSIBLE):
        value: float = getattr(claim, name)
        low, high = _PLAUSIBLE[name]
        if not math.isfinite(value) or value < 0:
            raise ConfigError(f"{claim.name} measured {name} as {value}", "let it measure again, or leave it out")
        if not low <= value <= high:
            nearer = low if value < low else high
            notes.append(f"{claim.name} measured {name} as {value:.3g}, which no machine has; {nearer:.3g} is assumed")
    return notes
