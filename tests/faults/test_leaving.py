"""Row 15: members that are told to stop leave in order, and nothing has to be computed again."""

from __future__ import annotations

import re
import signal

import pytest

from swarm.local.fleet import Event, Fleet
from tests.faults.conftest import Rig, check_history

pytestmark = pytest.mark.usefixtures("warm_starts")

STEPS = 60
LIMIT_S = 200.0


@pytest.mark.timeout(900)
def test_a_host_and_an_owner_leave_and_all_of_their_work_counts(rig: Rig) -> None:
    with rig(steps=STEPS, hosts=4, stages=2, owners=2) as fleet:
        gone = {leave(fleet, "host-0", signal.SIGINT), leave(fleet, "owner-1", signal.SIGTERM)}
        left_at = max(event["time_s"] for event in fleet.scheduler.events if event["event"] == "left")
        fleet.wait_finished(LIMIT_S)
        told = fleet.scheduler.events
        assert not [event for event in told if event["event"] in ("lost", "regroup", "round_failed")]
        later = {event["step"] - 1 for event in told if event["event"] == "step" and event["time_s"] > left_at}
        done = check_history(fleet, STEPS)
        assert later, "the run goes on without them"
        for step in done.steps:
            at_work = {peer for work in step.work for peer in (*work.route, work.owner)}
            assert not (step.step in later and at_work & gone)
            again = {work.number for work in step.work if work.attempt} - overdue(told, step.step)
            assert not again, "nothing had to go again"


def overdue(told: list[Event], step: int) -> set[int]:
    """Microbatches of a step that a busy machine kept for longer than owners wait: they go again, leaving or not."""
    problems = [event["problem"] for event in told if event["event"] == "suspect"]
    found = [re.fullmatch(r"microbatch (\d+) of step (\d+) is overdue", problem) for problem in problems]
    return {int(match[1]) for match in found if match is not None and int(match[2]) == step}


def leave(fleet: Fleet, name: str, number: signal.Signals) -> str:
    """Ask a member to stop, and wait until it has left; its peer id."""
    peer = fleet.peer_id(name)
    program = fleet.programs[name]
    program.process.send_signal(number)
    fleet.scheduler.wait_for("left", lambda event: event["peer"] == peer)
    assert program.process.wait(120.0) == 0
    assert any("all of its work" in event.get("text", "") for event in program.events)
    return peer


@pytest.mark.timeout(900)
def test_who_is_told_twice_leaves_at_once(rig: Rig) -> None:
    """The only host of a stage cannot be replaced: the admin hears of it, and the second Ctrl+C ends it."""
    with rig(steps=10_000, hosts=2, stages=2, owners=1) as fleet:
        program = fleet.programs["host-1"]
        fleet.scheduler.companions.remove(program)  # its end is no accident
        program.process.send_signal(signal.SIGINT)
        fleet.scheduler.wait_for("warning", lambda event: "nobody else has its part" in event["problem"])
        assert program.process.poll() is None, "it works on"
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(120.0) == 130
        told = fleet.scheduler.wait_for("regroup")
        assert "has no host" in told["problem"]
