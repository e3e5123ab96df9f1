"""A member that the admin sends away: planned away, refused by everybody, after restarts, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from scheduler.members import everybody
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet
from tests.support.processes import run_command
from tests.support.swarms import run_values

PATIENCE_S = 240.0

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("warm_starts")]


def revoked_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/run-*/revoked"))


def test_a_revoked_member_is_planned_away_and_stays_out(tmp_path: Path) -> None:
    values = run_values("fp32") | {"schedule": {"steps": 10_000, "checkpoint_every_steps": 10_000}}
    shards = write_random_shards(tmp_path / "text", 1, 1, 4000)
    with Fleet(tmp_path / "fleet", values, shards, num_hosts=2, num_stages=1) as fleet:
        fleet.wait_step(2, PATIENCE_S)
        bad, good = fleet.peer_id("host-0"), fleet.peer_id("host-1")
        del fleet.scheduler.companions[:]  # one of them is to end
        run_command("revoke", str(fleet.run_dir), bad[-8:]).succeeded()
        fleet.scheduler.wait_for("revoked", lambda event: event["peer"] == bad, PATIENCE_S)
        lost = fleet.scheduler.wait_for("lost", lambda event: event["peer"] == bad, PATIENCE_S)
        assert "revoked" in lost["problem"]
        assert fleet.programs["host-0"].process.wait(PATIENCE_S) == 17, "it is told, and ends"
        plans = fleet.scheduler
        newest = plans.wait_for(
            "plan", lambda event: all(bad not in each["replicas"] for each in event["stages"]), PATIENCE_S
        )
        fleet.wait_step(lost["step"] + 5, PATIENCE_S)
        assert {peer for stage in newest["stages"] for peer in stage["replicas"]} == {good}

        members = {member.peer: member for member in everybody(RunDir(fleet.run_dir))}
        assert members[bad].condition == "revoked"
        assert members[good].condition in ("works", "waits")
        assert members[good].admitted_at_s < members[bad].last_worked_at_s < members[good].last_worked_at_s

        invite = RunDir(fleet.run_dir).invites / "host.txt"
        back = fleet.join("host-0", invite)  # with its certificate, and with an invite that has uses left
        assert back.process.wait(PATIENCE_S) == 13, "it is told why nobody lets it in, and ends"
        assert "[S311]" in back.last_words
        del fleet.scheduler.companions[:]
        assert not any(event.get("event") == "joined" for event in back.events)
        fleet.programs["scheduler"].kill()
        fleet.resume(1, 1)
        fleet.wait_step(lost["step"] + 8, PATIENCE_S)
        assert not any(event.get("event") == "registered" and event["peer"] == bad for event in fleet.scheduler.events)
        assert len(revoked_in(tmp_path / "fleet")) == 2, "the owner and the other host keep the list"
