"""Rows 6, 7 and 10: networks that split, lose one way, or come and go. Everybody is in a namespace of its own."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from benchmarks.chaos.rig import LEADER
from benchmarks.wan.namespaces import Line
from swarm.model.presets import byte_llama
from tests.faults.rigs import Trial, is_at_work, newest_stages, trial

pytestmark = [
    pytest.mark.usefixtures("warm_starts"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

BACK_S = 150.0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("lasts_s", [20.0, pytest.param(120.0, marks=pytest.mark.long)])
def test_the_network_splits_in_halves(tmp_path: Path, lasts_s: float) -> None:
    """Row 6: the leader is left with a minority, so it pauses; the standby goes on with the others. One history."""
    with trial(tmp_path, hosts=3, stages=1, owners=2, standbys=1, line=Line()) as running:
        rig, lines = running.rig, running.campaign.lines
        running.until("everybody in the plan", lambda: rig.last_members == (3, 2), BACK_S)  # its members elect
        minority = [LEADER, "host-0", "owner-0"]
        majority = [name for name in rig.fleet.programs if name not in minority]
        began_s = time.time()
        lines.part(minority, majority)
        running.until(
            "word of it", lambda: any(event["time_s"] > began_s for event in running.told(LEADER, "regroup")), BACK_S
        )
        paused_at = max(event["step"] for event in running.told(LEADER, "step"))
        running.until("another leader", lambda: rig.leader == "standby-0", BACK_S)
        running.until("its steps", lambda: rig.newest_step > paused_at + 2, BACK_S)
        until_s = began_s + lasts_s
        running.until("the end of it", lambda: time.time() > until_s, 2 * lasts_s)
        assert max(event["step"] for event in running.told(LEADER, "step")) <= paused_at + 1
        lines.join()
        step = rig.newest_step
        for name in ("host-0", "owner-0"):
            running.until(f"{name} at work", lambda name=name: is_at_work(running, name, step), BACK_S)
        running.until("the old leader behind the new", lambda: bool(running.told(LEADER, "following")), BACK_S)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("between", ["two stages", "two replicas"])
def test_one_way_is_lost(tmp_path: Path, between: str) -> None:
    """Row 7: two hosts, of which one does not hear the other, and both hear everybody else."""
    with trial(tmp_path, hosts=4, stages=2, line=Line()) as running:
        stages = newest_stages(running)
        deaf = stages[0][1] if between == "two replicas" else stages[1][0]
        usual = pace(running, 10.0)
        before = placements(running)
        running.campaign.lines.lose([stages[0][0]], [deaf])
        found = pace(running, 60.0)
        moves = placements(running) - before
        running.rig.note({"event": "pace", "usual": usual, "found": found, "moves": moves})
        running.campaign.lines.join()
        assert found >= 0.3 * usual
        assert moves <= 4  # out, back after half a minute, and out for longer


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_line_flaps(tmp_path: Path) -> None:
    """Row 7: five seconds on, five off. The peer stays away for longer every time, and the others go on."""
    with trial(tmp_path, hosts=4, stages=2, line=Line()) as running:
        usual = pace(running, 10.0)
        step, before, began_s = running.rig.newest_step, placements(running), time.time()
        victim = newest_stages(running)[0][0]
        while time.time() < began_s + 60.0:
            running.campaign.lines.cut(victim)
            pace(running, 5.0)
            running.campaign.lines.mend(victim)
            pace(running, 5.0)
        found = (running.rig.newest_step - step) / (time.time() - began_s)
        moves = placements(running) - before
        running.rig.note({"event": "pace", "usual": usual, "found": found, "moves": moves})
        assert moves >= 1, "the fault fired"
        assert found >= 0.3 * usual
        assert moves <= 6
        step = running.rig.newest_step
        running.until("its work", lambda: is_at_work(running, victim, step), 2 * BACK_S)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_line_becomes_thin(tmp_path: Path) -> None:
    """Row 8: from 100 to 2 Mbit/s. Its all-reduces would slow everybody down, so the plan goes on without it."""
    model = byte_llama(num_layers=4, width=128, context_tokens=64, num_heads=4, mlp_width=256)
    data = {"context_tokens": 64, "held_out_fraction": 0.1}
    line = Line(100.0, 100.0)
    with trial(tmp_path, hosts=3, stages=1, line=line, model=model, data=data) as running:
        victim = "host-0"
        running.until("everybody in the plan", lambda: len(newest_stages(running)[0]) == 3, BACK_S)
        usual = pace(running, 20.0)
        before, began_s = placements(running), time.time()
        running.campaign.lines.places[victim].shape(Line(2.0, 2.0))
        running.until("a plan without it", lambda: victim not in newest_stages(running)[0], 90.0)
        took_s = time.time() - began_s
        found = pace(running, 30.0)
        moves = placements(running) - before
        running.rig.note({"event": "pace", "usual": usual, "found": found, "moves": moves, "took_s": took_s})
        assert found >= 0.8 * usual * 2 / 3
        assert moves <= 2
        running.campaign.lines.places[victim].shape(line)
        # Whether it gets a stage again is for the planner to say: it may be worth no more than it costs.
        peer = running.rig.peer_id(victim)
        running.until("word of its line", lambda: told_line(running, peer) > 6e6, 120.0)


def told_line(running: Trial, peer: str) -> float:
    """The newest uplink of a peer that the leader told, bytes/s; 0 before the first."""
    told = [event["up"] for event in running.rig.events("relined") if event["peer"] == peer]
    return float(told[-1]) if told else 0.0


def placements(running: Trial) -> int:
    """How often the newest plan placed somebody elsewhere than the one before."""
    shapes = [versions[-1].stages for _, versions in sorted(running.rig.plans.items())]
    return sum(one != other for one, other in itertools.pairwise(shapes))


def pace(running: Trial, lasts_s: float) -> float:
    """Steps a second."""
    step, until_s = running.rig.newest_step, time.time() + lasts_s
    running.until("some time", lambda: time.time() > until_s, 2 * lasts_s)
    return (running.rig.newest_step - step) / lasts_s
