"""The leading scheduler dies: a standby is elected, and the run goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from benchmarks.training_run import FinishedRun
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet
from tests.support.swarms import STAGES, run_values, weights_differ

pytestmark = pytest.mark.usefixtures("warm_starts")

STEPS = 14
HOSTS = 2 * STAGES
LAYER_S = 0.03
LIMIT_S = 300.0


@contextlib.contextmanager
def running(tmp_path: Path):
    """A swarm with one standby, some steps on its way."""
    values = run_values("fp32")
    values["schedule"] = {"steps": STEPS, "checkpoint_every_steps": 5}
    shards = write_random_shards(tmp_path / "text", 1, 2, 4000)
    devices = {f"host-{number}": ("--device", f"emulated:{LAYER_S}") for number in range(HOSTS)}
    fleet = Fleet(tmp_path / "fleet", values, shards, num_hosts=HOSTS, num_stages=STAGES, options=devices)
    with fleet:
        standby = fleet.start_standby("standby-0")
        standby.wait_for("following")
        fleet.wait_step(2)
        yield fleet, standby


def check(fleet: Fleet, num_steps: int) -> None:
    """The elected scheduler's ledger has every step once, and the weights are those of one process."""
    shards = {fleet.peer_id(f"owner-{number}"): corpus for number, corpus in enumerate(fleet.corpora)}
    done = FinishedRun(fleet.folder, RunDir(fleet.run_dir).load_config(), shards, 0.0, "standby-0")
    assert [step.step for step in done.steps] == list(range(num_steps))
    for owner in shards:
        cursors = [work.cursor for step in done.steps for work in step.work if work.owner == owner]
        assert len(set(cursors)) == len(cursors), "no sample twice"
    reference, _ = done.replay(threads=1)
    assert weights_differ(done, reference.weights) <= 1e-5


@pytest.mark.timeout(900)
def test_a_standby_leads_on_when_the_scheduler_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as (fleet, standby):
        fleet.scheduler.kill()
        led = standby.wait_for("leading")
        assert led["term"] > 1
        standby.wait_for("finished", timeout_s=LIMIT_S)
        for name, program in fleet.programs.items():
            if name != "scheduler":
                assert program.process.wait(120.0) == 0, name
        check(fleet, STEPS)


@pytest.mark.timeout(900)
def test_a_scheduler_that_slept_follows_the_one_that_was_elected(tmp_path: Path) -> None:
    with running(tmp_path) as (fleet, standby):
        fleet.scheduler.process.send_signal(signal.SIGSTOP)
        standby.wait_for("leading")
        first = standby.wait_for("step")["step"]
        fleet.scheduler.process.send_signal(signal.SIGCONT)
        fleet.scheduler.wait_for("regroup")
        fleet.scheduler.wait_for("following")
        standby.wait_for("step", lambda event: event["step"] > first)
        standby.wait_for("finished", timeout_s=LIMIT_S)
        assert fleet.scheduler.process.wait(120.0) == 0, "it hears that the run is finished"
        check(fleet, STEPS)


@pytest.mark.timeout(900)
def test_a_scheduler_that_is_stopped_hands_over(tmp_path: Path) -> None:
    with running(tmp_path) as (fleet, standby):
        fleet.scheduler.process.send_signal(signal.SIGTERM)
        fleet.scheduler.wait_for("handed_over")
        standby.wait_for("finished", timeout_s=LIMIT_S)
        check(fleet, STEPS)


@pytest.mark.timeout(900)
def test_a_leader_that_dies_after_the_last_commit_leaves_the_checkpoint_to_the_next_one(tmp_path: Path) -> None:
    with running(tmp_path) as (fleet, standby):
        fleet.wait_step(STEPS)
        fleet.scheduler.kill()
        standby.wait_for("finished", timeout_s=LIMIT_S)
        check(fleet, STEPS)
