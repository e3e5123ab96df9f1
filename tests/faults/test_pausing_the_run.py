"""Planned maintenance: the admin pauses the run, and it stands at a commit until it is let go on; nothing is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from scheduler.audit_reading import read_steps
from scheduler.pause_verbs import pause_run, unpause_run
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet
from tests.faults.conftest import Rig, check_history

PATIENCE_S = 240.0
STEPS = 40
QUIET_S = 3.0
"""Many steps take less."""

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("warm_starts")]


def wait_paused(fleet: Fleet, times: int) -> int:
    """Until it stands for the so manieth time; the committed steps."""
    seen: list[int] = []

    def stands(event: dict[str, object]) -> bool:
        if event.get("event") == "run_paused":
            seen.append(int(str(event["step"])))
        return len(seen) == times

    fleet.scheduler.wait_until(stands, "'run_paused'", PATIENCE_S)
    return seen[-1]


def committed(folder: Path) -> int:
    return sum(1 for _ in read_steps(RunDir(folder).audit))


def wait_told(fleet: Fleet) -> None:
    """Until members say why they wait."""
    for name, program in fleet.programs.items():
        if name.startswith(("host", "owner")):
            program.wait_until(
                lambda event: "the admin, who paused the run" in str(event.get("text")), "why it waits", PATIENCE_S
            )


def check_stands(fleet: Fleet, step: int) -> None:
    """Members say why they wait, the status says it, and nothing is committed for longer than steps take."""
    wait_told(fleet)
    time.sleep(QUIET_S)  # nothing can be waited for: nothing is to happen
    assert committed(fleet.run_dir) == step
    assert json.loads(RunDir(fleet.run_dir).status.read_bytes())["phase"] == "paused"
    assert not [event for event in fleet.scheduler.events if event.get("event") == "lost"]


def test_a_paused_run_stands_at_a_commit_and_goes_on_as_if_nothing_had_been(rig: Rig) -> None:
    with rig(STEPS, 2, 1, 1) as fleet:
        fleet.wait_step(2, PATIENCE_S)
        pause_run(fleet.run_dir)
        step = wait_paused(fleet, 1)
        assert 2 <= step < STEPS
        check_stands(fleet, step)
        unpause_run(fleet.run_dir)
        fleet.wait_step(step + 2, PATIENCE_S)
        fleet.wait_finished(PATIENCE_S)
        for program in fleet.programs.values():
            program.process.wait(PATIENCE_S)
        check_history(fleet, STEPS)


@pytest.mark.long
def test_a_scheduler_that_is_started_again_keeps_the_pause(rig: Rig) -> None:
    with rig(STEPS, 2, 1, 1) as fleet:
        fleet.wait_step(2, PATIENCE_S)
        pause_run(fleet.run_dir)
        step = wait_paused(fleet, 1)
        fleet.programs["scheduler"].kill()
        fleet.resume(2, 1)
        assert wait_paused(fleet, 1) == step
        assert committed(fleet.run_dir) == step
        unpause_run(fleet.run_dir)
        fleet.wait_step(step + 2, PATIENCE_S)


def test_a_standby_with_a_folder_of_its_own_keeps_the_pause(rig: Rig) -> None:
    with rig(10_000, 2, 1, 1, standbys=1) as fleet:
        pause_run(fleet.run_dir)
        step = wait_paused(fleet, 1)
        wait_told(fleet)
        fleet.programs["scheduler"].kill()
        standby = fleet.programs["standby-0"]
        standby.wait_for("run_paused", lambda event: event["step"] == step, PATIENCE_S)
        standby_dir = fleet.folder / "standby-0"
        assert committed(standby_dir) == step
        unpause_run(standby_dir)
        standby.wait_for("step", lambda event: event["step"] == step + 2, PATIENCE_S)
