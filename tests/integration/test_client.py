"""`swarm.client`, and the example that is written with it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from benchmarks.examples.codecs_and_loss import compare, trained
from scheduler.audit_reading import read_steps
from scheduler.run_dir import RunDir
from swarm.client import LocalRun, Run, watched
from swarm.errors import ConfigError, RunError
from tests.support.swarms import run_values

STEPS = 6

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("warm_starts")]


def test_a_run_of_the_example(tmp_path: Path) -> None:
    assert [step.number for step in trained(tmp_path, "int4", 2)] == [1, 2]


@pytest.mark.long
def test_the_whole_example(tmp_path: Path) -> None:
    losses = compare(tmp_path, 3)
    assert losses.keys() == {"fp32", "int4"}
    assert losses["fp32"] == pytest.approx(losses["int4"], abs=0.2)


def test_a_run_is_scripted_read_and_watched(tmp_path: Path) -> None:
    shards = write_random_shards(tmp_path / "text", 1, 1, 4000)
    options = {"scheduler": ("--monitor", "0", "--hosts", "2")}  # so it begins when it is watched
    with LocalRun(tmp_path / "local", run_values("fp32"), shards, 1, 1, options) as local:
        invite = local.fleet.run_dir / "invites" / "host.txt"
        local.fleet.scheduler.wait_for("monitor")
        feed = watched(str(invite))
        assert next(event for event in feed if event["event"] == "metrics")["steps"] == STEPS
        feed.close()
        local.fleet.join("late", invite)
        run = local.run
        steps = list(run.follow())
        checkpoint = local.wait_finished()
        assert [step.number for step in steps] == list(range(1, STEPS + 1))
        assert local.checkpoint == checkpoint
        plan = run.plan
        assert plan is not None
        assert plan["owners"] == [local.fleet.peer_id("owner-0")]
    assert run.is_finished
    assert run.steps() == steps
    assert run.steps(first=4) == steps[3:]
    assert {"leading", "plan", "step", "finished"} <= {event["event"] for event in run.events()}
    for step in read_steps(RunDir(run.folder).audit):
        ours = [dataclasses.astuple(row) for row in run.work(step.step + 1)]
        assert ours == [
            (each.number, each.owner, each.cursor, each.tokens, each.loss_sum, each.route) for each in step.work
        ]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run"):
        Run(tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        LocalRun(tmp_path / "run", tmp_path / "missing.toml", [], 1)
    with pytest.raises(RunError, match=r"\[S301\]"):
        list(watched("swarm1-nonsense"))


def test_reading_a_run_needs_no_torch() -> None:
    words = "import json, sys, swarm.client; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", words], capture_output=True, check=True, timeout=120).stdout
    assert not {"torch", "hivemind", "libp2p", "scheduler", "peers"} & set(json.loads(loaded))
