"""Bad input, against real processes: a numbered sentence, the exit status that belongs to it, nothing half-written."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import uvloop

from peers.peer import Peer
from peers.probe import measure_layer
from scheduler.new_run import DEFAULT_MODEL, create
from scheduler.planner.heuristic import certified_plan
from scheduler.run_dir import RunDir, make_invite
from swarm.admission import Membership, read_invite, write_invite
from swarm.data.tokenizer import ByteTokenizer
from swarm.errors import PeerUnavailable, PortTaken, RunError, SwarmError, TargetExists, TokenizerMismatch
from swarm.identity import Identity
from swarm.local.fleet import START_S, Program
from swarm.model.blueprint import layout
from swarm.net import endpoint as endpoints
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.transport import CONTROL, ByteStream
from swarm.training.checkpoint import MANIFEST
from swarm.training.device import Device
from swarm.wire.messages import PROTOCOL_VERSION, Admit, Reports, SpeedProbe
from tests.support.processes import run_command
from tests.support.runs import heartbeat
from tests.support.waiting import MICROBATCH_TOKENS, SECTIONS, Waiting, error_of, refusal, waiting_run, write_config


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waiting]:
    with waiting_run(tmp_path_factory.mktemp("waiting")) as run:
        yield run


def left_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- making a run ----------------------------------------------------------------------------------------------------


def test_an_unknown_config_key(tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.toml", SECTIONS | {"optimizer": {"learning_rat": 0.1}})
    words = run_command("init", str(tmp_path / "run"), "--config", str(config)).failed_with("S101")
    assert "learning_rat" in words
    assert "did you mean learning_rate?" in words
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.toml", SECTIONS | {"model": DEFAULT_MODEL | {"vocab_size": 100}})
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(ByteTokenizer().to_json(), encoding="utf-8")
    arguments = ["init", str(tmp_path / "run"), "--config", str(config), "--tokenizer", str(tokenizer)]
    words = run_command(*arguments).failed_with("S113")
    assert "256 tokens" in words
    assert "vocab_size is 100" in words
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_is_not_the_runs(tmp_path: Path) -> None:
    named = SECTIONS | {"data": {"context_tokens": 32, "tokenizer": f"sha256:{'0' * 64}"}}
    with pytest.raises(TokenizerMismatch, match=r"\[S113\]"):
        create(tmp_path / "run", "test", write_config(tmp_path / "c.toml", named), None)
    assert not (tmp_path / "run").exists()


def test_init_into_a_folder_that_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    run_command("init", str(tmp_path)).failed_with("S603")
    assert left_in(tmp_path) == {"mine.txt"}


def test_a_scheduler_without_a_run(tmp_path: Path) -> None:
    run_command("scheduler", str(tmp_path)).failed_with("S100")
    assert left_in(tmp_path) == set()


def test_an_export_into_a_folder_that_is_in_use(tmp_path: Path) -> None:
    checkpoint, target = tmp_path / "checkpoint", tmp_path / "target"
    checkpoint.mkdir()
    (checkpoint / MANIFEST).write_text("{}", encoding="utf-8")
    target.mkdir()
    (target / "mine.txt").write_text("mine", encoding="utf-8")
    run_command("export", str(checkpoint), str(target)).failed_with("S603")
    assert left_in(tmp_path) == {f"checkpoint/{MANIFEST}", "target/mine.txt"}


# --- invites ---------------------------------------------------------------------------------------------------------


def test_a_damaged_invite(waiting: Waiting, tmp_path: Path) -> None:
    invite = waiting.invite("host")
    damaged = invite[:50] + ("A" if invite[50] != "A" else "B") + invite[51:]
    run_command("join", damaged, "--state-dir", str(tmp_path / "state")).failed_with("S301")
    assert left_in(tmp_path) == set()


def test_an_expired_invite(waiting: Waiting, tmp_path: Path) -> None:
    invite = waiting.invite("host", lifetime_s=-3600.0)
    words = run_command("join", invite, "--state-dir", str(tmp_path / "state")).failed_with("S302")
    assert "3,600 s ago" in words or "3,60" in words
    assert left_in(tmp_path) == set()


def test_an_expired_invite_is_refused_by_the_scheduler_too(
    waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is wrong believes the invite; the scheduler does not."""
    invite = waiting.invite("host", lifetime_s=-3600.0)
    monkeypatch.setattr("peers.joining.read_invite", lambda text, now_s: read_invite(text, 0.0))
    assert "expired" in refusal(error_of(invite, tmp_path), "S302")


def test_an_invite_for_another_run(waiting: Waiting, tmp_path: Path) -> None:
    other = Identity.generate()
    real = read_invite(waiting.invite("host"), 0.0)
    stolen = replace(real, admin_public_key=other.public_key, fingerprint="a" * 64)
    before = waiting.heard("admitted")
    words = refusal(error_of(write_invite(other, stolen), tmp_path), "S305")
    assert "aaaaaaaaaaaa" in words
    assert waiting.config.fingerprint[:12] in words
    assert waiting.heard("admitted") == before


def test_an_invite_for_this_run_by_another_admin(waiting: Waiting, tmp_path: Path) -> None:
    other = Identity.generate()
    real = read_invite(waiting.invite("host"), 0.0)
    before = waiting.heard("admitted")
    error = error_of(write_invite(other, replace(real, admin_public_key=other.public_key)), tmp_path)
    assert error is not None
    assert error.exit_code == 13
    assert waiting.heard("admitted") == before


def test_an_invite_whose_uses_are_spent(waiting: Waiting, tmp_path: Path) -> None:
    invite = waiting.invite("host", uses=1)
    assert error_of(invite, tmp_path / "first") is None
    assert "1 uses are spent" in refusal(error_of(invite, tmp_path / "second"), "S302")
    assert error_of(invite, tmp_path / "first") is None  # whoever used it may come back
    assert left_in(tmp_path / "second") <= {"identity.key", "lock"}


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, "S110", "there is no shard at"),
        (b"PK\x03\x04\0\0binary", "S110", "is not text"),
        (b"caf\xe9 latin-1 \xff", "S110", "cannot read"),
        (b"", "S111", "holds no text"),
        (b"x" * (MICROBATCH_TOKENS - 1), "S112", f"one microbatch takes {MICROBATCH_TOKENS + 1}"),
    ],
    ids=["missing", "binary", "not UTF-8", "empty", "too small"],
)
def test_a_shard_that_cannot_be_used(
    waiting: Waiting, tmp_path: Path, content: bytes | None, code: str, words: str
) -> None:
    data = tmp_path / "shard.txt"
    if content is not None:
        data.write_bytes(content)
    state = tmp_path / "state"
    assert words in refusal(error_of(waiting.invite("owner"), state, data), code)
    assert not [name for name in left_in(state) if "partial" in name]
    if code == "S110":
        assert {name for name in left_in(state) if not name.startswith("run-")} <= {"identity.key", "lock"}
    data.write_bytes(b"enough text to train on\n" * 20)
    assert error_of(waiting.invite("owner"), state, data) is None


def test_an_empty_shard_ends_the_process(waiting: Waiting, tmp_path: Path) -> None:
    data = tmp_path / "shard.txt"
    data.touch()
    state = str(tmp_path / "state")
    arguments = ["join", waiting.invite("owner"), "--data", str(data), "--state-dir", state]
    run_command(*arguments).failed_with("S111")


def test_a_shard_and_an_invite_that_do_not_go_together(waiting: Waiting, tmp_path: Path) -> None:
    data = tmp_path / "shard.txt"
    data.write_text("text\n" * 100, encoding="utf-8")
    refusal(error_of(waiting.invite("host"), tmp_path / "a", data), "S301")
    refusal(error_of(waiting.invite("owner"), tmp_path / "b"), "S301")


# --- the machine -----------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken(waiting: Waiting, tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        state = str(tmp_path / "state")
        ended = run_command("join", waiting.invite("host"), "--state-dir", state, "--port", port)
    assert port in ended.failed_with("S201")
    assert left_in(tmp_path / "state") == {"identity.key", "lock"}


def test_a_port_that_is_taken_on_the_schedulers_machine(tmp_path: Path) -> None:
    from scheduler.node import Wishes
    from scheduler.opening import opened as scheduling

    create(tmp_path / "run", "test", write_config(tmp_path / "c.toml", SECTIONS), None)
    before = left_in(tmp_path / "run")

    async def main(port: int) -> None:
        async with scheduling(
            RunDir(tmp_path / "run"), "127.0.0.1", port, Wishes(1, 1, 0, certified_plan), "", lambda event: None
        ):
            pytest.fail("it listens")

    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortTaken):
            uvloop.run(main(taken.getsockname()[1]))
    assert {name.partition("-")[0] for name in left_in(tmp_path / "run") - before} <= {
        "scheduler.key",
        "audit.sqlite",
        "layout.json",
        "lock",
    }


def test_a_model_too_large_for_all_peers_together(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    config = create(folder.root, "test", write_config(tmp_path / "c.toml", SECTIONS), None)
    data = tmp_path / "shard.txt"
    data.write_text("text to train on\n" * 100, encoding="utf-8")
    arguments = ["scheduler", str(folder.root), "--json", "--hosts", "1", "--owners", "1"]
    program = Program("scheduler", arguments, tmp_path / "logs")
    costs = measure_layer(config, layout(config), Device("cpu", "fp32"))
    memory_bytes = 2 * (costs.layer_bytes + costs.graph_bytes)
    try:
        program.wait_for("listening")
        invite = make_invite(config, folder.load_admin(config), folder.addresses(), ("host", "owner"), 1, 600.0)
        error = error_of(invite, tmp_path / "state", data, lambda peer: peer.run(), memory_bytes=memory_bytes)
        status = program.process.wait(60)
    finally:
        program.stop()
    assert isinstance(error, RunError)
    assert re.search(r"hosts together hold [12] of the trunk's 4 layers", error.problem), error.problem
    assert status == 11
    words = program.last_words
    assert words.startswith("[S121] ")
    assert "MiB are missing" in words
    assert not (folder.root / "checkpoints").exists()


# --- strangers and other versions ------------------------------------------------------------------------------------


def as_stranger(waiting: Waiting, folder: Path, body: Callable[[Endpoint, str], Awaitable[None]]) -> None:
    """Do something to the scheduler from a peer that nobody admitted."""

    async def main() -> None:
        identity = Identity.generate()
        identity.save(folder / "stranger.key")
        p2p = await start_daemon(folder / "stranger.key", "127.0.0.1", 0, waiting.folder.addresses())
        config = waiting.config
        membership = Membership(config.fingerprint, config.admin_public_key)
        endpoint = Endpoint(Libp2pTransport(p2p), membership, config.fingerprint)
        try:
            async with asyncio.timeout(60):
                await body(endpoint, waiting.peer_id)
        finally:
            await endpoint.close()

    uvloop.run(main())


def test_a_stranger_gets_no_answer(waiting: Waiting, tmp_path: Path) -> None:
    async def body(endpoint: Endpoint, scheduler: str) -> None:
        for message in (SpeedProbe(), Reports(items=()), heartbeat(1)):
            with pytest.raises(PeerUnavailable):
                await endpoint.request(scheduler, message)

    as_stranger(waiting, tmp_path, body)
    assert waiting.still_admits(tmp_path / "state")


def test_a_stranger_that_makes_up_an_invite_or_a_certificate(waiting: Waiting, tmp_path: Path) -> None:
    async def body(endpoint: Endpoint, scheduler: str) -> None:
        for invite in ("", "swarm1-AAAA", "swarm1-" + "é" * 40):
            with pytest.raises(SwarmError, match=r"\[S301\]"):
                await endpoint.request(scheduler, Admit(invite=invite))
        (await endpoint.channel(scheduler)).abort()
        endpoint.certificate = b"\x94\x01\xc4\x00\xa0\xc4\x00"
        with pytest.raises(PeerUnavailable):
            await endpoint.request(scheduler, Admit(invite=""))

    as_stranger(waiting, tmp_path, body)


def test_bytes_that_are_no_protocol(waiting: Waiting, tmp_path: Path) -> None:
    async def gets_nothing(stream: ByteStream) -> None:
        with pytest.raises(PeerUnavailable):
            await stream.read_exactly(1)

    async def body(endpoint: Endpoint, scheduler: str) -> None:
        for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 64, b"\x03\0\0\0" + bytes(8) + b"\xdc\xff\xff"):
            stream = await endpoint.transport.open(scheduler, CONTROL)
            stream.write(data)
            await gets_nothing(stream)

    as_stranger(waiting, tmp_path, body)
    assert waiting.still_admits(tmp_path / "state")


def test_another_protocol_version_ends_the_process(waiting: Waiting, tmp_path: Path) -> None:
    newer = (
        "import sys, swarm.net.endpoint as endpoint; from swarm.cli import main; "
        "endpoint.PROTOCOL_VERSION = 99; sys.argv[0] = 'swarm'; main()"
    )
    arguments = ["join", waiting.invite("host"), "--state-dir", str(tmp_path / "state")]
    words = run_command(*arguments, command=("-c", newer)).failed_with("S304")
    assert "version 99" in words
    assert f"this peer {PROTOCOL_VERSION}" in words
    assert left_in(tmp_path / "state") == {"identity.key", "lock"}


def test_an_older_protocol_version_is_told_too(
    waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "PROTOCOL_VERSION", 0)
    words = refusal(error_of(waiting.invite("host"), tmp_path), "S304")
    assert "version 0" in words
    assert f"this peer {PROTOCOL_VERSION}" in words


# --- two processes, and the end of one --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_waiting_peer_ends_when_it_is_told(waiting: Waiting, tmp_path: Path, number: signal.Signals) -> None:
    """And while it runs, nobody else can use its state directory."""
    state, logs = tmp_path / "state", tmp_path / "logs"
    invite = waiting.invite("host")
    program = Program("join", ["join", invite, "--state-dir", str(state), "--json"], logs)
    try:
        program.wait_until(lambda event: "announced" in event.get("text", ""), "announcement", START_S)
        children = psutil.Process(program.process.pid).children(recursive=True)
        assert any("p2pd" in child.name() for child in children)
        if number is signal.SIGINT:
            words = run_command("join", invite, "--state-dir", str(state)).failed_with("S306")
            assert str(state) in words
        program.process.send_signal(number)
        status = program.process.wait(30)
    finally:
        program.kill()
    errors = (logs / "join.stderr").read_text(encoding="utf-8")
    assert "Traceback" not in errors
    assert status == (0 if number is signal.SIGTERM else 130), errors
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert len(gone) == len(children)
    assert error_of(invite, state) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_peer_that_is_just_starting_leaves_no_daemon(
    waiting: Waiting, tmp_path: Path, number: signal.Signals
) -> None:
    state, logs = tmp_path / "state", tmp_path / "logs"
    program = Program("join", ["join", waiting.invite("host"), "--state-dir", str(state), "--json"], logs)
    try:
        program.wait_until(lambda event: "daemon" in event.get("text", ""), "the daemon's start", START_S)
        process = psutil.Process(program.process.pid)
        while not (children := process.children(recursive=True)):
            assert program.process.poll() is None
        program.process.send_signal(number)
        status = program.process.wait(30)
    finally:
        program.kill()
    errors = (logs / "join.stderr").read_text(encoding="utf-8")
    assert "Traceback" not in errors, errors
    assert status == (0 if number is signal.SIGTERM else 130), errors
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_state_directory_in_use(waiting: Waiting, tmp_path: Path) -> None:
    inner: list[SwarmError | None] = []

    async def body(peer: Peer) -> None:
        def again() -> SwarmError | None:
            return error_of(waiting.invite("host"), tmp_path)

        inner.append(await asyncio.to_thread(again))

    assert error_of(waiting.invite("host"), tmp_path, body=body) is None
    refusal(inner[0], "S306")


def test_a_run_that_is_there_already(waiting: Waiting) -> None:
    before = waiting.folder.config.read_bytes()
    with pytest.raises(TargetExists):
        create(waiting.folder.root, "again", None, None)
    assert waiting.folder.config.read_bytes() == before


def test_a_run_has_one_scheduler(waiting: Waiting) -> None:
    run_command("scheduler", str(waiting.folder.root)).failed_with("S306")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("init", "{file}"), "S603"),
        (("init", "/proc/nowhere/run"), "S100"),
        (("join", "{file}"), "S301"),
        (("demo", "--folder", "{file}"), "S603"),
        (("demo", "--json", "/nowhere/figures.json"), "S100"),
    ],
)
def test_paths_that_cannot_be_what_they_are_given_as(arguments: tuple[str, ...], code: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xff\xfe not text")
    run_command(*(argument.format(file=file) for argument in arguments)).failed_with(code)
