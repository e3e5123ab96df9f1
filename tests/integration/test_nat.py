"""Four hosts behind two routers that translate addresses train through the scheduler's relay."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpora import write_random_shards
from benchmarks.training_run import train
from benchmarks.wan.nat import Spot, behind_routers
from scheduler.new_run import create
from scheduler.run_dir import RunDir
from swarm.errors import status_of
from swarm.local.fleet import Event, Fleet, Program
from swarm.toml_text import to_toml
from tests.support.swarms import run_values, weights_differ

HOMES = {"left": ("host-0", "host-1"), "right": ("host-2", "host-3")}
HOSTS = [name for names in HOMES.values() for name in names]
STEPS = 24
LIMIT_S = 120.0
EVERYWHERE = "0.0.0.0"  # noqa: S104
LOOK_AFTER = 2

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("warm_starts"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("iptables") is None, reason="address translation needs iptables"),
]

_DIAL = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()"


def dials(source: Spot, address: str, port: int) -> bool:
    """Whether a TCP connection from there to that address comes about."""
    command = [*source.wrapper, sys.executable, "-c", _DIAL, address, str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_hosts_behind_two_routers_train_through_the_relay(tmp_path: Path) -> None:
    values = run_values("fp32")
    values["optimizer"] = {"name": "sgd", "learning_rate": 0.01, "warmup_steps": 2}
    values["schedule"] = {"steps": STEPS, "checkpoint_every_steps": STEPS}
    shards = write_random_shards(tmp_path / "text", 1, 1, 4000)
    with behind_routers(["scheduler", "owner-0"], HOMES) as spots:
        ports = {name: free_port() for name in HOSTS}
        options = {
            "scheduler": ("--host", spots["scheduler"].address, "--relay"),
            "owner-0": ("--host", spots["owner-0"].address),
            **{name: ("--host", EVERYWHERE, "--port", str(ports[name]), "--device", "emulated:0.02") for name in HOSTS},
        }
        wrappers = {name: spot.wrapper for name, spot in spots.items()}
        fleet = Fleet(tmp_path / "fleet", values, shards, 4, 2, options=options, wrappers=wrappers)
        refused: dict[tuple[str, str], bool] = {}
        relays: list[dict[str, Any]] = []

        def look(running: Fleet, event: Event) -> None:
            relays.append(json.loads(RunDir(running.run_dir).status.read_bytes())["relay"])
            if event["step"] != LOOK_AFTER:
                return
            for source, target in (("host-0", "host-2"), ("owner-0", "host-0")):
                refused[source, target] = not dials(spots[source], spots[target].outside, ports[target])
            assert dials(spots["host-2"], spots["host-3"].address, ports["host-3"]), "they were there all the time"

        done = train(fleet, "behind routers", 300.0, look)

    assert refused == {("host-0", "host-2"): True, ("owner-0", "host-0"): True}
    peers = {name: fleet.peer_id(name) for name in HOSTS}
    worked = {peer for step in done.steps for work in step.work for peer in work.route}
    assert worked == set(peers.values()), "every host had a part"
    for name in HOSTS:
        told = [str(event) for event in fleet.programs[name].events]
        assert any("reached through the relay of" in words for words in told), told
    relay = relays[-1]
    assert set(relay["peers"]) == set(peers.values())
    assert relay["num_carried"] > 0
    boundary_bytes = 2 * 16 * 32 * 4
    assert relay["carried_bytes"] > boundary_bytes * len(done.steps), "the public owner calls hosts, too"
    assert done.lost_peers == []
    reference, _ = done.replay(threads=1)
    assert weights_differ(done, reference.weights) <= 1e-5
    assert done.replicas_equal()


def test_without_a_relay_a_hidden_peer_and_its_doctor_say_what_to_do(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(to_toml({"admin_public_key": "", **run_values("fp32")}, {}), encoding="utf-8")
    create(tmp_path / "run", "test", config, None)
    logs = tmp_path / "logs"
    with behind_routers(["scheduler", "seen"], {"left": ["hidden"]}) as spots:

        def start(name: str, *arguments: str) -> Program:
            program = Program(name, [*arguments, "--json"], logs, wrapper=spots[name.partition("-")[0]].wrapper)
            started.append(program)
            return program

        started: list[Program] = []
        try:
            listen = ("--host", spots["scheduler"].address)
            scheduler = start("scheduler", "scheduler", str(tmp_path / "run"), *listen)
            invite = scheduler.wait_for("listening")["invites"]["host"]
            found = {}
            for name in ("seen", "hidden"):
                place = ("--state-dir", str(tmp_path / name), "--host", EVERYWHERE)
                doctor = start(f"{name}-doctor", "doctor", invite, *place)
                found[name] = doctor.wait_until(
                    lambda event: event.get("what") == "dialled by others", "its finding", LIMIT_S
                )
            assert found["seen"]["verdict"] == "good"
            assert "it answered" in found["seen"]["text"]
            assert (found["hidden"]["verdict"], found["hidden"]["code"]) == ("bad", "S206")
            assert spots["hidden"].outside in found["hidden"]["text"]
            assert started[-1].process.wait(LIMIT_S) == status_of("S206")
            joined = start("hidden-join", "join", invite, *place)
            joined.wait_until(lambda event: event.get("text", "").startswith("[S206]"), "what it needs", LIMIT_S)
        finally:
            for program in reversed(started):
                program.stop()
