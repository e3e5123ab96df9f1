"""Killed, frozen and cut-off peers come back by themselves with what they had; nothing is lost or counted twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.chaos.schedule import Kind
from benchmarks.wan.namespaces import Line
from tests.faults.rigs import Trial, is_at_work, trial

pytestmark = pytest.mark.usefixtures("warm_starts")

BACK_S = 150.0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "victim"), [(Kind.KILL_OWNER, "owner-1"), (Kind.KILL_HOST, "host-1")])
def test_a_killed_peer_that_is_back_at_once_works_again(tmp_path: Path, kind: Kind, victim: str) -> None:
    """Sooner than the leader could miss it: the new process answers for the old one, and knows nothing of its part."""
    with trial(tmp_path, hosts=2, stages=1, owners=2) as running:
        running.campaign.do_now(kind, victim, lasts_s=0.0)
        running.until("the peer again", lambda: running.rig.is_ready(victim), BACK_S)
        step = running.rig.newest_step
        running.until("its work", lambda: is_at_work(running, victim, step), BACK_S)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_owner_that_slept_for_long_works_again_without_a_restart(tmp_path: Path) -> None:
    with trial(tmp_path, hosts=2, stages=1, owners=2) as running:
        running.campaign.do_now(Kind.FREEZE_OWNER, "owner-1", lasts_s=25.0)
        running.until("its waking", lambda: "owner-1" not in running.rig.away, BACK_S)
        step = running.rig.newest_step
        running.until("its work", lambda: is_at_work(running, "owner-1", step), BACK_S)
        assert len(running.told("owner-1", "joined")) == 1


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_peer_that_was_cut_off_works_again_unaided(tmp_path: Path) -> None:
    with trial(tmp_path, hosts=2, stages=1, owners=1, line=Line()) as running:
        running.campaign.do_now(Kind.CUT_HOST, "host-0", lasts_s=25.0)
        running.until("its line", lambda: "host-0" not in running.rig.away, BACK_S)
        step = running.rig.newest_step
        running.until("its work", lambda: is_at_work(running, "host-0", step), BACK_S)
        assert len(running.told("host-0", "joined")) == 1


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_last_host_of_a_stage_dies_and_a_spare_serves(tmp_path: Path) -> None:
    with trial(tmp_path, hosts=3, stages=2, owners=1) as running:
        alone = sole_host(running)
        step = running.rig.newest_step
        running.campaign.do_now(Kind.KILL_HOST, alone, lasts_s=90.0)
        running.until("a word of it", lambda: bool(running.told("scheduler", "regroup")), 15.0)
        assert "has no host" in running.told("scheduler", "regroup")[0]["problem"]
        running.until("more steps", lambda: running.rig.newest_step >= step + 3, BACK_S)
        assert alone in running.rig.away, "it was not the victim that came back"


def sole_host(running: Trial) -> str:
    """A host that serves a stage alone."""
    newest = max(running.rig.plans.items())[1][-1]
    (alone,) = next(stage for stage in newest.stages if len(stage) == 1)
    return next(
        name for name in running.rig.fleet.programs if name[:4] == "host" and running.rig.peer_id(name) == alone
    )
