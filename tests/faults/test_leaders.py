"""The leading scheduler dies or sleeps: a standby goes on where it was, and there is one history."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks.cases import chaos
from benchmarks.chaos.rig import Rig
from benchmarks.chaos.schedule import Kind
from tests.faults.rigs import trial

pytestmark = pytest.mark.usefixtures("warm_starts")

TAKE_OVER_S = 150.0
KILLS = 3
LEADERS = 200


def has_another_leader(rig: Rig, old: str) -> bool:
    return rig.leader not in ("", old)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_leaders_are_killed_one_after_the_other(tmp_path: Path) -> None:
    with trial(tmp_path, hosts=2, stages=1, owners=1, standbys=1) as running:
        rig = running.rig
        for _ in range(KILLS):
            running.until("a standby", lambda: bool(rig.standbys), TAKE_OVER_S)
            leader = rig.leader
            running.campaign.do_now(Kind.KILL_LEADER, leader, lasts_s=3.0)
            running.until("another leader", partial(has_another_leader, rig, leader), TAKE_OVER_S)
            running.more_steps(5, TAKE_OVER_S)
        terms = {step.term for step in running.history().steps}
        assert len(terms) == KILLS + 1


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_leader_that_slept_finds_another_one_and_stands_by(tmp_path: Path) -> None:
    with trial(tmp_path, hosts=2, stages=1, owners=1, standbys=1) as running:
        rig = running.rig
        running.until("a standby", lambda: bool(rig.standbys), TAKE_OVER_S)
        assert rig.leader == "scheduler"
        running.campaign.do_now(Kind.FREEZE_LEADER, "scheduler", lasts_s=30.0)
        running.until("another leader", lambda: rig.leader == "standby-0", TAKE_OVER_S)
        running.until("its waking", lambda: "scheduler" not in rig.away, TAKE_OVER_S)
        running.until("its standing by", lambda: bool(running.told("scheduler", "following")), TAKE_OVER_S)
        running.more_steps(5, TAKE_OVER_S)
        assert rig.leader == "standby-0"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_standby_comes_back_and_leads_while_the_only_scheduler_that_it_was_told_of_sleeps(tmp_path: Path) -> None:
    """The members' addresses are on its disk: without them it waited until the sleeper woke (chaos)."""
    with trial(tmp_path, hosts=2, stages=1, owners=1, standbys=1) as running:
        rig = running.rig
        running.until("a standby", lambda: bool(rig.standbys), TAKE_OVER_S)
        neighbours = rig.folder_of("standby-0") / "neighbours.json"
        running.until("the members' addresses", neighbours.exists, TAKE_OVER_S)
        rig.fleet.programs["standby-0"].kill()
        running.campaign.do_now(Kind.FREEZE_LEADER, "scheduler", lasts_s=100.0)
        rig.start_again("standby-0")
        running.until("another leader", lambda: rig.leader == "standby-0", TAKE_OVER_S)
        running.more_steps(5, TAKE_OVER_S)
        assert "scheduler" in rig.away, "it slept all the while"


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_a_leader_is_killed_at_two_hundred_random_points(tmp_path: Path) -> None:
    """Row 4, in one run: no step is lost or applied twice, whatever each of them was doing."""
    options = chaos.Options(
        minutes=180.0,
        most_faults=LEADERS,
        most_gap_s=10.0,
        kinds=Kind.KILL_LEADER,
        hosts=2,
        spares=0,
        stages=1,
        owners=1,
        standbys=2,
        fault_free_s=10.0,
        cut_off=False,
        folder=str(tmp_path),
    )
    metrics = chaos.run(options).metrics
    assert metrics["faults_fired"] == {Kind.KILL_LEADER: LEADERS}
    assert metrics["promises_broken"] == [], metrics
