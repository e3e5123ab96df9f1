"""Measurements are refused, or clamped and reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.planner.intake import Measured, hosts_of
from swarm.errors import ConfigError

GOOD = Measured("alice", memory_bytes=2.0**34, layer_s=0.02, up_bytes_per_s=3e6, down_bytes_per_s=2e7)


@pytest.mark.parametrize("name", ["memory_bytes", "layer_s", "up_bytes_per_s", "down_bytes_per_s", "overhead_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_measurement_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"S100.*alice measured {name}"):
        hosts_of([replace(GOOD, **{name: value})])


def test_the_absurd_is_clamped_and_reported() -> None:
    hosts, notes = hosts_of([GOOD, replace(GOOD, name="bob", layer_s=1e-12, up_bytes_per_s=0.0)])
    assert hosts.layer_s.tolist() == [0.02, 1e-7]
    assert hosts.up_bytes_per_s.tolist() == [3e6, 1.0]
    assert len(notes) == 2
    assert all("bob" in note and "assumed" in note for note in notes)


def test_names_and_regions_are_checked() -> None:
    with pytest.raises(ConfigError, match="alice is there twice"):
        hosts_of([GOOD, GOOD])
    with pytest.raises(ConfigError, match="region 3 of 2"):
        hosts_of([replace(GOOD, region=3)], num_regions=2)
