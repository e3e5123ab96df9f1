"""`swarm doctor` beside a real run: what it finds before joining, after it, and where something is wrong."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from peers.doctor import examine
from peers.findings import Finding, exit_status
from scheduler.new_run import create
from scheduler.run_dir import RunDir, make_invite
from swarm.admission import Membership, read_invite
from swarm.config import NodeConfig
from swarm.errors import SwarmError
from swarm.identity import Identity
from swarm.local.fleet import Program
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.reach import port_of
from swarm.toml_text import to_toml
from swarm.wire.messages import DialBack, DialledBack
from tests.support.swarms import run_values

pytestmark = pytest.mark.usefixtures("warm_starts")

LIMIT_S = 120.0


@pytest.fixture(scope="module")
def invite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a run whose scheduler waits for more members than will ever come."""
    folder = tmp_path_factory.mktemp("waiting")
    config = folder / "config.toml"
    config.write_text(to_toml({"admin_public_key": "", **run_values("fp32")}, {}), encoding="utf-8")
    create(folder / "run", "test", config, None)
    program = Program("scheduler", ["scheduler", str(folder / "run"), "--json", "--hosts", "9"], folder / "logs")
    try:
        program.wait_for("listening")
        run_dir = RunDir(folder / "run")
        made = run_dir.load_config()
        yield make_invite(made, run_dir.load_admin(made), run_dir.addresses(), ("host",), 1, 600.0)
    finally:
        program.stop()


def examined(state_dir: Path, invite: str, memory_bytes: int = 0) -> dict[str, Finding]:
    """What the verb would show, in this process: by what was looked at."""

    async def look() -> list[Finding]:
        return [each async for each in examine(NodeConfig(state_dir=state_dir, memory_bytes=memory_bytes), invite)]

    return {each.what: each for each in uvloop.run(look())}


def doctor(state_dir: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The verb's exit status, and its findings by what was looked at."""
    finished = subprocess.run(
        [sys.executable, "-m", "swarm", "doctor", *arguments, "--json", "--state-dir", str(state_dir)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert b"Traceback" not in finished.stderr, finished.stderr
    return finished.returncode, {each["what"]: each for each in map(json.loads, finished.stdout.splitlines())}


@pytest.mark.timeout(900)
def test_it_looks_without_spending_the_invite_and_knows_more_of_a_member(invite: str, tmp_path: Path) -> None:
    found = examined(tmp_path, invite)
    assert exit_status(found.values()) == 0, found
    assert {found[what].verdict for what in ("run", "daemon", "software", "memory", "invite")} == {"good"}
    assert found["clock"].verdict == "unknown"

    program = Program("host", ["join", invite, "--state-dir", str(tmp_path), "--json"], tmp_path / "logs")
    try:
        program.wait_for("joined")  # the invite's only use was still there
        found = examined(tmp_path, invite)
        assert found["folder"].code == "S306", "a peer runs here"
        assert exit_status(found.values()) == 13
    finally:
        program.stop()

    found = examined(tmp_path, invite)
    assert exit_status(found.values()) == 0, found
    assert found["clock"].verdict == "good"
    assert "a layer takes" in found["memory"].text
    found = examined(tmp_path, invite, memory_bytes=1)
    assert (found["memory"].verdict, found["memory"].code) == ("bad", "S130")


@pytest.mark.timeout(200)
def test_what_is_wrong_has_its_number_and_the_others_are_looked_at_all_the_same(invite: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, found = doctor(tmp_path, invite[:-9] + "xxxxxxxxx", "--port", str(taken.getsockname()[1]))
    assert found["invite"]["code"] == "S301"
    assert found["daemon"]["code"] == "S201"
    assert status == 13
    assert all(each["remedy"] for each in found.values() if each["verdict"] == "bad")


@pytest.mark.timeout(200)
def test_a_stranger_is_dialled_where_it_is_seen_if_it_shows_an_invite(invite: str, tmp_path: Path) -> None:
    read = read_invite(invite, time.time())
    scheduler = read.bootstrap[0].rpartition("/p2p/")[2]
    Identity.generate().save(tmp_path / "key")

    async def ask() -> None:
        p2p = await start_daemon(tmp_path / "key", "127.0.0.1", 0, read.bootstrap)
        membership = Membership(read.fingerprint, read.admin_public_key)
        endpoint = Endpoint(Libp2pTransport(p2p), membership, read.fingerprint)
        try:
            port = port_of(str(address) for address in await p2p.get_visible_maddrs())
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                for asked, is_reached in ((port, True), (nobody.getsockname()[1], False)):
                    question = DialBack(port=asked, invite=invite)
                    reply, _ = await endpoint.request(scheduler, question, deadline_s=LIMIT_S)
                    assert reply == DialledBack(seen_at="127.0.0.1", reached=is_reached, relays=False)
            with pytest.raises(SwarmError, match="S301"):
                await endpoint.request(scheduler, DialBack(port=port, invite=""), deadline_s=LIMIT_S)
        finally:
            await endpoint.close()

    uvloop.run(ask())
