"""Everything is killed at once and started again, on more hosts and on fewer: the run goes on, with equal weights."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from benchmarks.training_run import FinishedRun
from scheduler.audit_reading import read_steps
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet
from tests.support.swarms import STAGES, run_values, weights_differ

pytestmark = pytest.mark.usefixtures("warm_starts")

STEPS = 12
CHECKPOINT_EVERY = 3
HOSTS = 2
LAYER_S = 0.05
LIMIT_S = 150.0


def killed_fleet(tmp_path: Path, *victims: str) -> Fleet:
    """A fleet that is entered, with a checkpoint and steps beyond it, whose `victims` (all: none named) are dead."""
    values = run_values("fp32")
    values["schedule"] = {"steps": STEPS, "checkpoint_every_steps": CHECKPOINT_EVERY}
    shards = write_random_shards(tmp_path / "text", 1, 1, 4000)
    devices = {f"host-{number}": ("--device", f"emulated:{LAYER_S}") for number in range(3)}
    fleet = Fleet(tmp_path / "fleet", values, shards, num_hosts=HOSTS, num_stages=STAGES, options=devices)
    fleet.__enter__()
    fleet.scheduler.wait_for("checkpoint")
    fleet.wait_step(CHECKPOINT_EVERY + 2)
    for name in victims or fleet.programs:
        fleet.programs[name].process.kill()
    for name in victims or fleet.programs:
        fleet.programs[name].kill()
    return fleet


def committed(fleet: Fleet) -> int:
    """Steps that the killed scheduler had written down."""
    return sum(1 for _ in read_steps(RunDir(fleet.run_dir).audit))


def check(fleet: Fleet, num_hosts: int, committed_steps: int) -> None:
    """The run went on at its last committed step and did what one process does, each sample once."""
    fleet.wait_finished(LIMIT_S)
    owner = fleet.programs["owner-0"]
    assert owner.process.wait(120.0) == 0
    shards = {fleet.peer_id("owner-0"): fleet.corpora[0]}
    done = FinishedRun(fleet.folder, RunDir(fleet.run_dir).load_config(), shards, 0.0)
    resumed = [event["step"] for event in fleet.scheduler.events if event["event"] == "step"]
    assert resumed[0] == committed_steps + 1, "it goes on at the last committed step"
    assert resumed[0] > CHECKPOINT_EVERY + 1
    steps = done.steps
    assert [step.step for step in steps] == list(range(STEPS))
    assert steps[-1].plan > steps[0].plan
    assert len({peer for work in steps[-1].work for peer in work.route}) == num_hosts
    cursors = [work.cursor for step in steps for work in step.work]
    assert sorted(cursors) == list(range(len(cursors))), "no sample twice, none lost"
    reference, _ = done.replay(threads=1)
    assert weights_differ(done, reference.weights) <= 1e-5
    assert done.replicas_equal()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("num_hosts", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_run_goes_on_after_everything_was_killed(tmp_path: Path, num_hosts: int) -> None:
    fleet = killed_fleet(tmp_path)
    before = committed(fleet)
    with contextlib.ExitStack() as stack:
        stack.push(fleet.__exit__)
        invites = fleet.resume(num_hosts, 1)
        fleet.join("owner-0", invites["owner"], "--data", str(fleet.corpora[0]))
        for number in range(num_hosts):
            fleet.join(f"host-{number}", invites["host"])
        check(fleet, num_hosts, before)


@pytest.mark.timeout(900)
def test_peers_wait_for_a_scheduler_that_was_killed(tmp_path: Path) -> None:
    fleet = killed_fleet(tmp_path, "scheduler")
    before = committed(fleet)
    with contextlib.ExitStack() as stack:
        stack.push(fleet.__exit__)
        fleet.resume(HOSTS, 1)
        check(fleet, HOSTS, before)
