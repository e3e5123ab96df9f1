"""`boundary_codec = "auto"`: whoever has a thin line gets coarse tensors, everybody else fine ones, and they train."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from swarm.local.fleet import Fleet
from tests.support.swarms import run_values

PATIENCE_S = 240.0
THIN_MBIT = 0.27
"""A tenth of what its two layers compute with bf16 tensors of 2 KiB."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("warm_starts")]


def test_a_thin_line_gets_coarse_tensors(tmp_path: Path) -> None:
    values = run_values("auto")
    shards = write_random_shards(tmp_path / "text", 1, 1, 4000)
    options = {"host-1": ("--up-mbit", str(THIN_MBIT))}
    with Fleet(tmp_path / "fleet", values, shards, num_hosts=2, num_stages=2, options=options) as fleet:
        plan = fleet.scheduler.wait_for("plan", timeout_s=PATIENCE_S)
        assert plan["thin_lines"][fleet.peer_id("host-1")] == "int4"
        assert fleet.peer_id("owner-0") not in plan["thin_lines"]
        fleet.wait_step(3, PATIENCE_S)
        assert not [event for event in fleet.scheduler.events if event.get("event") in ("lost", "suspect")]
