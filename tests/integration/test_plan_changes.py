"""Plans change while real processes train: newcomers get layers and data, and nothing is lost or counted twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from benchmarks.training_run import train
from swarm.local.fleet import Event, Fleet
from swarm.model.presets import byte_llama
from tests.support.swarms import STAGES, run_values, weights_differ

pytestmark = pytest.mark.usefixtures("warm_starts")

STEPS = 30
SLOW_S, FAST_S = 0.12, 0.015
"""A layer of those who begin, so slow that newcomers, who load libraries for many seconds, find the run still going;
and one of the late host, so fast that the trunk is worth cutting anew."""
TRUNK_LAYERS = 4


@pytest.mark.timeout(900)
def test_newcomers_get_layers_and_data(tmp_path: Path) -> None:
    values = run_values("fp32")
    values["model"] = byte_llama(num_layers=TRUNK_LAYERS + 2, width=32, context_tokens=16, num_heads=2, mlp_width=64)
    # Steps so large that rounding alone, summed in another order, grows to the limit would hide what is looked for.
    values["optimizer"] = values["optimizer"] | {"learning_rate": 0.02}
    values["schedule"] = {"steps": STEPS, "checkpoint_every_steps": 7}
    first, late = write_random_shards(tmp_path / "text", 1, 2, 4000)
    seconds = {"host-0": SLOW_S, "host-1": SLOW_S, "host-late": FAST_S}
    devices = {name: ("--device", f"emulated:{layer_s}") for name, layer_s in seconds.items()}
    fleet = Fleet(tmp_path / "fleet", values, [first], num_hosts=STAGES, num_stages=STAGES, options=devices)

    def invite_more(running: Fleet, event: Event) -> None:
        if event["step"] == 1:
            invites = {key: Path(path) for key, path in running.scheduler.wait_for("listening")["invites"].items()}
            running.join("host-late", invites["host"])
            running.join("owner-late", invites["owner"], "--data", str(late))

    done = train(fleet, "newcomers", 240.0, invite_more)

    done = replace(done, shards={**done.shards, fleet.peer_id("owner-late"): late})
    host, owner = fleet.peer_id("host-late"), fleet.peer_id("owner-late")
    assert not done.lost_peers
    last = done.steps[-1]
    assert any(host in work.route for work in last.work), "the late host has work"
    assert any(work.owner == owner for work in last.work), "the late owner has work"
    plans = [event["stages"] for event in fleet.scheduler.events if event["event"] == "plan"]
    spans = [[tuple(stage["layers"]) for stage in stages] for stages in plans]
    assert len(set(map(tuple, spans))) > 1, "the trunk was cut anew"
    assert len({step.plan for step in done.steps}) == len(plans)
    reference, _ = done.replay(threads=1)
    assert weights_differ(done, reference.weights) <= 1e-5
    assert done.replicas_equal()
