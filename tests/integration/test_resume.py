"""Everything is killed at once and started again, on more hosts and on fewer: the run goes on, with equal weights."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from benchmarks.training_run import FinishedRun
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet
from tests.support.swarms import STAGES, run_values, weights_differ

STEPS = 12
CHECKPOINT_EVERY = 3
HOSTS = 2
LAYER_S = 0.05
LIMIT_S = 150.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("num_hosts", [3, 1])
def test_a_run_goes_on_after_everything_was_killed(tmp_path: Path, num_hosts: int) -> None:
    values = run_values("fp32")
    values["schedule"] = {"steps": STEPS, "checkpoint_every_steps": CHECKPOINT_EVERY}
    (shard,) = write_random_shards(tmp_path / "text", 1, 1, 4000)
    devices = {f"host-{number}": ("--device", f"emulated:{LAYER_S}") for number in range(3)}
    fleet = Fleet(tmp_path / "fleet", values, [shard], num_hosts=HOSTS, num_stages=STAGES, options=devices)
    with fleet:
        fleet.scheduler.wait_for("checkpoint")
        fleet.wait_step(CHECKPOINT_EVERY + 2)
        for program in fleet.programs.values():
            program.process.kill()
        for program in fleet.programs.values():
            program.kill()
        invites = fleet.resume(num_hosts, 1)
        owner = fleet.join("owner-0", invites["owner"], "--data", str(shard))
        for number in range(num_hosts):
            fleet.join(f"host-{number}", invites["host"])
        fleet.wait_finished(LIMIT_S)
        done = FinishedRun(
            fleet.folder, RunDir(fleet.run_dir).load_config(), {fleet.peer_id("owner-0"): shard}, time.monotonic()
        )
        assert owner.process.wait(60.0) == 0
    resumed = [event["step"] for event in fleet.scheduler.events if event["event"] == "step"]
    assert resumed[0] == CHECKPOINT_EVERY + 1, "it goes on at the checkpoint"
    steps = done.steps
    assert [step.step for step in steps] == list(range(STEPS))
    assert steps[-1].plan > steps[0].plan
    assert len({peer for work in steps[-1].work for peer in work.route}) == num_hosts
    cursors = [work.cursor for step in steps for work in step.work]
    assert sorted(cursors) == list(range(len(cursors))), "no sample twice, none lost"
    reference, _ = done.replay(threads=1)
    assert weights_differ(done, reference.weights) <= 1e-5
    assert done.replicas_equal()
