"""Hosts keep each other's stages: whoever takes over has nothing to load, and a stage may lose all of its hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.schedule import Kind
from tests.faults.rigs import CHECKPOINT_EVERY, Trial, newest_stages, trial

pytestmark = pytest.mark.usefixtures("warm_starts")

LIMIT_S = 150.0
SCHEDULE = {"steps": 1_000_000, "checkpoint_every_steps": CHECKPOINT_EVERY, "shadow_copies": 1.0}


def shadows(running: Trial) -> list[tuple[str, int]]:
    """Who keeps which stage of the newest plan."""
    told = max(running.rig.events("plan"), key=lambda event: (event["number"], event["time_s"]))
    return [(peer, number) for number, stage in enumerate(told["stages"]) for peer in stage["shadows"]]


def all_are_kept(running: Trial, least: int) -> bool:
    """Whether so many hosts keep a whole copy."""
    whole = {event["peer"] for event in running.rig.events("shadow")}
    return len([peer for peer, _ in shadows(running) if peer in whole]) >= least


@pytest.mark.timeout(900)
def test_a_stage_that_lost_all_of_its_hosts_is_served_by_their_shadows(tmp_path: Path) -> None:
    """Row 2, with copies: nobody waits for the dead to come back."""
    with trial(tmp_path, hosts=4, stages=2, schedule=SCHEDULE) as running:
        running.until("copies", lambda: all_are_kept(running, 4), LIMIT_S)
        victims = newest_stages(running)[0]
        for name in victims:
            running.campaign.do_now(Kind.KILL_HOST, name, 40.0)
        running.more_steps(5, 35.0)
        assert set(victims) <= set(running.campaign.absent), "the steps were made without them"


@pytest.mark.timeout(900)
def test_a_shadow_that_takes_over_loads_nothing(tmp_path: Path) -> None:
    with trial(tmp_path, hosts=5, stages=2, schedule=SCHEDULE) as running:
        running.until("everybody in the plan", lambda: running.rig.last_members == (5, 1), LIMIT_S)
        running.until("copies", lambda: all_are_kept(running, 5), LIMIT_S)
        stages = newest_stages(running)
        short = min(range(2), key=lambda stage: len(stages[stage]))
        keepers = {peer for peer, stage in shadows(running) if stage == short}
        victim = stages[short][0]
        running.campaign.do_now(Kind.KILL_HOST, victim, 20.0)
        running.until("two hosts again", lambda: len(set(newest_stages(running)[short]) - {victim}) == 2, LIMIT_S)
        newcomer = next(name for name in newest_stages(running)[short] if name not in stages[short])
        assert running.rig.peer_id(newcomer) in keepers
