"""Peers that die or sleep come back by themselves, and the run waits for nobody it can do without."""

from __future__ import annotations

import signal

import pytest

from swarm.local.fleet import Event, Fleet
from tests.faults.conftest import Rig, check_history

pytestmark = pytest.mark.usefixtures("warm_starts")

LIMIT_S = 200.0


def back_in_a_plan(fleet: Fleet, peer: str, after: Event) -> None:
    """Wait for a plan, newer than `after`, that gives the peer a stage."""
    fleet.scheduler.wait_for(
        "plan",
        lambda event: event["number"] > after["number"] and any(peer in stage["replicas"] for stage in event["stages"]),
        LIMIT_S,
    )


@pytest.mark.timeout(900)
def test_a_host_that_was_killed_and_started_again_gets_a_stage_again(rig: Rig) -> None:
    with rig(steps=110) as fleet:
        victim = fleet.programs["host-0"]
        peer = fleet.peer_id("host-0")
        victim.kill()
        fleet.scheduler.wait_for("lost", lambda event: event["peer"] == peer)
        without = fleet.scheduler.wait_for(
            "plan", lambda event: not any(peer in stage["replicas"] for stage in event["stages"])
        )
        fleet.scheduler.companions.remove(victim)
        fleet.join("host-0", fleet.run_dir / "invites" / "host.txt")
        back_in_a_plan(fleet, peer, without)
        fleet.wait_finished(LIMIT_S)
        check_history(fleet, 110)


@pytest.mark.timeout(900)
def test_a_host_that_slept_comes_back_by_itself(rig: Rig) -> None:
    """Row 9 of the list of faults, in its short version: no restart, and stale work is refused."""
    with rig(steps=130) as fleet:
        sleeper = fleet.programs["host-1"]
        peer = fleet.peer_id("host-1")
        sleeper.process.send_signal(signal.SIGSTOP)
        fleet.scheduler.wait_for("lost", lambda event: event["peer"] == peer)
        without = fleet.scheduler.wait_for(
            "plan", lambda event: not any(peer in stage["replicas"] for stage in event["stages"])
        )
        sleeper.process.send_signal(signal.SIGCONT)
        back_in_a_plan(fleet, peer, without)
        fleet.wait_finished(LIMIT_S)
        assert sleeper.process.wait(120.0) == 0
        check_history(fleet, 130)


@pytest.mark.timeout(900)
def test_a_stage_that_lost_its_last_host_is_named_and_served_again(rig: Rig) -> None:
    """Row 2: both hosts of a stage die; one is started again with what its disk holds."""
    with rig(steps=40) as fleet:
        plan = fleet.scheduler.wait_for("plan")
        names = {fleet.peer_id(f"host-{number}"): f"host-{number}" for number in range(4)}
        victims = [names[peer] for peer in plan["stages"][0]["replicas"]]
        for name in victims:
            fleet.programs[name].process.kill()
        for name in victims:
            fleet.programs[name].kill()
            fleet.scheduler.companions.remove(fleet.programs[name])
        told = fleet.scheduler.wait_for("regroup")
        assert told["problem"].startswith("stage 0 has no host")
        done = max(event["step"] for event in fleet.scheduler.events if event["event"] == "step")
        fleet.join(victims[0], fleet.run_dir / "invites" / "host.txt")
        resumed = fleet.scheduler.wait_until(
            lambda event: event["event"] == "step" and event["time_s"] > told["time_s"], "'step'", LIMIT_S
        )
        assert resumed["step"] in (done, done + 1), "at most one step is repeated"
        fleet.wait_finished(LIMIT_S)
        check_history(fleet, 40)
