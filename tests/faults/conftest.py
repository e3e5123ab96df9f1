"""A rig for faults: real processes, emulated devices, steps of a fraction of a second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from benchmarks.training_run import FinishedRun
from scheduler.run_dir import RunDir
from swarm.local.fleet import Fleet
from tests.support.swarms import run_values, weights_differ

LAYER_S = 0.03
Rig = Callable[..., contextlib.AbstractContextManager[Fleet]]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A swarm that trains already: `with rig(steps=40, hosts=4, stages=2) as fleet`."""

    @contextlib.contextmanager
    def start(steps: int, hosts: int = 4, stages: int = 2, owners: int = 2, standbys: int = 0) -> Iterator[Fleet]:
        values = run_values("fp32")
        values["schedule"] = {"steps": steps, "checkpoint_every_steps": 10}
        # Hundreds of steps: a larger rate would blow differences of rounding up.
        values["optimizer"] = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0, "warmup_steps": 2}
        shards = write_random_shards(tmp_path / "text", 1, owners, 8000)
        devices = {f"host-{number}": ("--device", f"emulated:{LAYER_S}") for number in range(hosts + 2)}
        fleet = Fleet(tmp_path / "fleet", values, shards, num_hosts=hosts, num_stages=stages, options=devices)
        with fleet:
            for number in range(standbys):
                fleet.start_standby(f"standby-{number}").wait_for("following")
            fleet.wait_step(2)
            yield fleet

    return start


def check_history(fleet: Fleet, num_steps: int, scheduler: str = "run") -> FinishedRun:
    """Every step once, no sample twice, and the weights are those of one process."""
    shards = {fleet.peer_id(f"owner-{number}"): corpus for number, corpus in enumerate(fleet.corpora)}
    done = FinishedRun(fleet.folder, RunDir(fleet.run_dir).load_config(), shards, 0.0, scheduler)
    assert [step.step for step in done.steps] == list(range(num_steps))
    for owner in shards:
        cursors = [work.cursor for step in done.steps for work in step.work if work.owner == owner]
        assert len(set(cursors)) == len(cursors), "no sample twice"
    reference, _ = done.replay(threads=1)
    assert weights_differ(done, reference.weights) <= 1e-5
    return done
