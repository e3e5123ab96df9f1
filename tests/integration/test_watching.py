"""`swarm watch` beside a real swarm: py-libp2p finds the Go daemon, and needs neither torch nor hivemind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.corpora import write_random_shards
from scheduler.run_dir import RunDir, make_invite
from swarm.admission import Membership, read_invite
from swarm.identity import Identity
from swarm.local.fleet import Fleet, Program
from swarm.net import lan
from tests.support.swarms import run_values

PATIENCE_S = 240.0
STEPS = 12
WITHOUT_TORCH = (
    "-c",
    """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "hivemind", "transformers", "uvloop"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Missing())
from swarm.cli import main
main()
assert not {"torch", "hivemind", "transformers", "scheduler", "peers"} & set(sys.modules)
""",
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def fleet(tmp_path: Path, warm_starts: None) -> Iterator[Fleet]:
    values = run_values("fp32") | {"schedule": {"steps": STEPS, "checkpoint_every_steps": STEPS}}
    shards = write_random_shards(tmp_path / "text", 1, 1, 4000)
    options = {"scheduler": ("--monitor", "0", "--hosts", "2")}  # so it begins when the one that moved is here, too
    with Fleet(tmp_path / "fleet", values, shards, num_hosts=1, num_stages=1, options=options) as fleet:
        yield fleet


def test_a_watcher_without_torch_sees_a_run_to_its_end(fleet: Fleet, tmp_path: Path) -> None:
    folder = RunDir(fleet.run_dir)
    config = folder.load_config()
    admin = folder.load_admin(config)
    invite = make_invite(config, admin, folder.addresses(), ("host",), 1, 3600.0)
    place = fleet.scheduler.wait_for("monitor", timeout_s=PATIENCE_S)
    watcher = Program("watch", ["watch", invite, "--json"], tmp_path, command=WITHOUT_TORCH)
    try:
        first = watcher.wait_for("metrics", timeout_s=PATIENCE_S)
        assert (first["run"], first["step"], first["steps"]) == ("test", 0, STEPS)
        check_lan(invite, place["addresses"])
        nobody = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
        moved = tmp_path / "moved.txt"
        moved.write_text(make_invite(config, admin, (nobody,), ("host",), 1, 3600.0))
        late = fleet.join("late", moved)
        plan = watcher.wait_for("plan", timeout_s=PATIENCE_S)
        hosts = {fleet.peer_id("host-0"), fleet.peer_id("late")}
        assert any("on the local network" in str(event.get("text")) for event in late.events)
        assert {host for stage in plan["stages"] for host in stage["hosts"]} <= hosts
        assert plan["owners"] == [fleet.peer_id("owner-0")]
        assert plan["predicted_tokens_per_s"] > 0

        last = watcher.wait_for("metrics", lambda event: event["phase"] == "finished", PATIENCE_S)
        assert last["step"] == STEPS
        told = fleet.scheduler.wait_for("step", lambda event: event["step"] == STEPS)
        assert last["loss"] == pytest.approx(told["loss"])
        watcher.expect_success(PATIENCE_S)
    finally:
        watcher.stop()


def check_lan(invite_text: str, monitor: list[str]) -> None:
    invite = read_invite(invite_text, time.time())
    membership = Membership(invite.fingerprint, invite.admin_public_key)
    (place,) = lan.found(membership, invite.fingerprint, look_s=60.0)
    assert place.bootstrap == invite.bootstrap
    assert list(place.monitor) == monitor
    stranger = Membership(invite.fingerprint, Identity.generate().public_key)
    assert lan.found(stranger, invite.fingerprint, look_s=2.0) == (), "another admin's scheduler is believed"
