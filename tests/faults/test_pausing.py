"""A peer whose people let it pause: nothing is lost, nothing is asked of it, and it comes back as a newcomer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peers.control import ask
from swarm.local.fleet import Fleet
from tests.faults.conftest import Rig
from tests.faults.rigs import Trial, is_at_work, newest_stages, trial
from tests.support.processes import run_command

pytestmark = pytest.mark.usefixtures("warm_starts")

LIMIT_S = 200.0


@pytest.mark.timeout(900)
def test_who_pauses_and_goes_on_again_loses_nothing(tmp_path: Path) -> None:
    """A host and an owner, of several each, at the same time; the run goes on without them meanwhile."""
    with trial(tmp_path, hosts=4, stages=2, owners=2) as running:
        fleet, rig = running.rig.fleet, running.rig
        running.until("work of both", lambda: len(at_work_beside_others(running)) == 2, LIMIT_S)
        names = at_work_beside_others(running)
        peers = {name: fleet.peer_id(name) for name in names}
        for name in names:
            assert tell(fleet, name, "pause")["state"] == "pausing", "obeyed at once"
        for name in names:
            paused = until(fleet, name, lambda view: view["state"] == "paused")
            assert paused["parts"] == []
            assert paused["waiting_for"] == "the pause to end"
            assert min(paused["sent_bytes"], paused["received_bytes"], paused["computed_microbatches"]) > 0
            fleet.scheduler.wait_for("paused", lambda event, peer=peers[name]: event["peer"] == peer)
        gone_at, before = rig.newest_step, {name: tell(fleet, name, "me")["computed_tokens"] for name in names}
        running.more_steps(5, LIMIT_S)
        assert before == {name: tell(fleet, name, "me")["computed_tokens"] for name in names}, "it computes nothing"
        back_at = rig.newest_step
        for name in names:
            assert tell(fleet, name, "unpause")["state"] == "working"
        for name in names:
            running.until(f"{name}'s work", lambda name=name: is_at_work(running, name, back_at), LIMIT_S)
            assert tell(fleet, name, "me")["computed_tokens"] > before[name]
        quiet = [step for step in running.history().steps if gone_at < step.step < back_at]
        assert quiet
        assert not any({*work.route, work.owner} & {*peers.values()} for step in quiet for work in step.work)
        assert not [event for kind in ("lost", "regroup") for event in running.told("scheduler", kind)]


@pytest.mark.timeout(900)
def test_the_verbs_as_people_use_them(rig: Rig) -> None:
    """Also told to go at once, while it pauses: it ends, and so does the answering."""
    with rig(steps=10_000, hosts=3, stages=1, owners=1) as fleet:
        folder = ("--state-dir", str(fleet.folder / "host-2"))
        program = fleet.programs["host-2"]
        assert run_command("me", *folder).status == 0
        assert run_command("pause", *folder).status == 0
        until(fleet, "host-2", lambda view: view["state"] == "paused")
        fleet.scheduler.companions.remove(program)  # its end is no accident
        assert run_command("leave", *folder).status == 0
        assert program.process.wait(30.0) == 0
        run_command("me", *folder).failed_with("S205")
        step = newest_step(fleet)
        fleet.wait_step(step + 3)


@pytest.mark.timeout(900)
def test_a_stages_only_host_works_on_until_it_is_told_to_go_at_once(rig: Rig) -> None:
    with rig(steps=10_000, hosts=2, stages=2, owners=1) as fleet:
        program = fleet.programs["host-1"]
        fleet.scheduler.companions.remove(program)
        assert tell(fleet, "host-1", "pause")["state"] == "pausing"
        fleet.scheduler.wait_for("warning", lambda event: "nobody else has its part" in event["problem"])
        assert tell(fleet, "host-1", "me")["parts"], "it works on"
        assert tell(fleet, "host-1", "leave", now=True)["state"] == "gone"
        assert program.process.wait(30.0) == 0
        assert "has no host" in fleet.scheduler.wait_for("regroup")["problem"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_peer_keeps_to_its_limits_by_itself(rig: Rig) -> None:
    """Told while it runs: hours that are not now, an amount that is spent, less memory; then none of it."""
    with rig(steps=10_000, hosts=3, stages=1, owners=1) as fleet:
        name = "host-2"
        folder = ("--state-dir", str(fleet.folder / name))
        noon = (time.localtime().tm_hour + 12) % 24
        assert run_command("limits", *folder, "--hours", f"{noon}-{(noon + 1) % 24}").status == 0
        paused = until(fleet, name, lambda view: view["state"] == "paused")
        assert paused["reason"] == f"it may work from {noon}:00 to {(noon + 1) % 24}:00"
        fleet.scheduler.wait_for("paused", lambda event: event["peer"] == paused["peer"])
        assert run_command("limits", *folder, "--hours", "", "--daily-gib", "1e-6").status == 0
        spent = tell(fleet, name, "me")
        assert spent["state"] == "paused"
        assert "are sent and received" in spent["reason"]
        assert run_command("limits", *folder, "--daily-gib", "0", "--memory-mib", "64", "--up-mbit", "400").status == 0
        until(fleet, name, lambda view: view["computed_tokens"] > paused["computed_tokens"])
        said = json.loads((fleet.run_dir / "status.json").read_bytes())["peers"][paused["peer"]]
        assert said["memory_bytes"] == 64 << 20
        assert said["up_bytes_per_s"] <= 400e6 / 8
        run_command("limits", *folder, "--hours", "24-25").failed_with("S100")


def at_work_beside_others(running: Trial) -> list[str]:
    """A host that has worked, whose stage has another one, and an owner that has."""
    shared = [name for stage in newest_stages(running) if len(stage) > 1 for name in stage]
    hosts = [name for name in shared if is_at_work(running, name, -1)]
    owners = [name for name in ("owner-0", "owner-1") if is_at_work(running, name, -1)]
    return [*hosts[:1], *owners[:1]]


def tell(fleet: Fleet, name: str, verb: str, **arguments: Any) -> dict[str, Any]:
    """What a peer answers to a verb."""
    return ask(fleet.folder / name, verb, **arguments)


def newest_step(fleet: Fleet) -> int:
    """Steps that the scheduler has told of."""
    return max(int(event["step"]) for event in tuple(fleet.scheduler.events) if event["event"] == "step")


def until(fleet: Fleet, name: str, is_there: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Look at a peer until it is as wanted."""
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        view = tell(fleet, name, "me")
        if is_there(view):
            return view
        assert time.monotonic() < deadline_s, view
        time.sleep(0.2)
