"""Rows 11 and 14: who cannot take part is refused within seconds, and told both values that clash.

Real daemons on both sides: a scheduler that waits for more members than will ever come, and joiners in this process.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from peers.keepsake import Keepsake
from scheduler.audit_log import AuditLog
from scheduler.new_run import DEFAULT_MODEL, create
from scheduler.run_dir import RunDir, make_invite
from swarm.config import BYTE_TOKENIZER
from swarm.data.tokenizer import ByteTokenizer, identify
from swarm.errors import CheckpointCorrupt, TokenizerMismatch
from swarm.identity import Identity
from swarm.local.fleet import Program
from swarm.net import endpoint as endpoints
from swarm.net.admitting import Admission
from swarm.wire.messages import PROTOCOL_VERSION
from tests.faults.conftest import Rig, check_history
from tests.support.processes import run_command
from tests.support.waiting import SECTIONS, Waiting, error_of, refusal, waiting_run, write_config
from tests.support.warm import WarmServer

PATIENCE_S = 120.0
"""Refusals take less than 5 s where nothing else keeps the machine busy."""
HOUR_S = 3600.0


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, warm_server: WarmServer) -> Iterator[Waiting]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swarm.local.fleet.Popen", warm_server.popen)
        with waiting_run(tmp_path_factory.mktemp("waiting")) as run:
            yield run


@pytest.fixture
def start(tmp_path: Path, warm_starts: None) -> Iterator[Callable[..., Program]]:
    """Starts `swarm join` processes, and ends them after the test."""
    programs: list[Program] = []

    def begin(invite: str, state_dir: Path) -> Program:
        arguments = ["join", invite, "--state-dir", str(state_dir), "--json"]
        programs.append(Program(f"join-{len(programs)}", arguments, tmp_path / "logs"))
        return programs[-1]

    yield begin
    for program in programs:
        program.stop()


def last_words(program: Program, code: str) -> str:
    """Of a process that was refused."""
    assert program.process.wait(PATIENCE_S) == 10 + int(code[1]), program.last_words
    assert program.last_words.startswith(f"[{code}] "), program.last_words
    return program.last_words


def announced(program: Program) -> None:
    program.wait_until(lambda event: "announced" in event.get("text", ""), "announcement", 2 * PATIENCE_S)


# --- row 14: the same identity twice ---------------------------------------------------------------------------------


def test_two_processes_with_one_state_folder(waiting: Waiting, tmp_path: Path, start: Callable[..., Program]) -> None:
    first = start(waiting.invite("host"), tmp_path / "state")
    announced(first)
    assert str(tmp_path / "state") in last_words(start(waiting.invite("host"), tmp_path / "state"), "S306")
    assert first.process.poll() is None


def test_one_key_on_two_machines(waiting: Waiting, tmp_path: Path, start: Callable[..., Program]) -> None:
    """The second is refused, with both addresses; the first goes on, and may be started again elsewhere at once."""
    first = start(waiting.invite("host"), tmp_path / "state")
    announced(first)
    waiting.program.wait_for("registered", lambda event: event["peer"] == peer_of(tmp_path / "state"))
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "state" / "identity.key", tmp_path / "copy")
    words = last_words(start(waiting.invite("host"), tmp_path / "copy"), "S306")
    assert peer_of(tmp_path / "state") in words
    assert words.count("/ip4/127.0.0.1/tcp/") == 2, words
    assert first.process.poll() is None
    first.kill()
    announced(start(waiting.invite("host"), tmp_path / "copy"))


def peer_of(state_dir: Path) -> str:
    return Identity.load(state_dir / "identity.key").peer_id


# --- row 14: another version, model, tokenizer; a mistyped invite -----------------------------------------------------


def test_another_version(waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    words = refusal(error_of(waiting.invite("host"), tmp_path), "S304")
    assert f"version {PROTOCOL_VERSION + 1}" in words
    assert f"this peer {PROTOCOL_VERSION}" in words


def test_a_member_of_a_run_of_another_model(waiting: Waiting, tmp_path: Path) -> None:
    """It may even know the other run's scheduler by its address."""
    values = SECTIONS | {"model": DEFAULT_MODEL | {"num_hidden_layers": 5}}
    other = create(tmp_path / "run", "test", write_config(tmp_path / "c.toml", values), None)
    admin = RunDir(tmp_path / "run").load_admin(other)
    invite = make_invite(other, admin, waiting.folder.addresses(), ("host",), 1, HOUR_S)
    words = refusal(error_of(invite, tmp_path / "state"), "S305")
    assert other.fingerprint[:12] in words
    assert waiting.config.fingerprint[:12] in words


def test_a_model_that_is_changed_after_the_first_step(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    config = create(folder.root, "test", write_config(tmp_path / "c.toml", SECTIONS), None)
    AuditLog(folder.audit, config.fingerprint, config.to_json()).close()
    text = folder.config.read_text(encoding="utf-8")
    changed = text.replace("num_hidden_layers = 6", "num_hidden_layers = 7")
    assert changed != text, "the fault fired"
    folder.config.write_text(changed, encoding="utf-8")
    now = folder.load_config()
    with pytest.raises(CheckpointCorrupt, match=r"model\.num_hidden_layers was 6, now it is 7"):
        AuditLog(folder.audit, now.fingerprint, now.to_json())


def other_tokenizer() -> str:
    """The run's own but for one token more."""
    changed = Tokenizer.from_str(ByteTokenizer().to_json())
    changed.add_tokens([AddedToken("swarm")])
    text: str = changed.to_str()
    return text


def test_another_tokenizer_in_the_schedulers_folder(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    config = create(folder.root, "test", write_config(tmp_path / "c.toml", SECTIONS), None)
    folder.tokenizer.write_text(other_tokenizer(), encoding="utf-8")
    with pytest.raises(TokenizerMismatch) as caught:
        folder.tokenizer_of(config)
    assert BYTE_TOKENIZER in str(caught.value)
    assert identify(other_tokenizer()) in str(caught.value)


def test_another_tokenizer_in_a_members_folder_is_fetched_again(waiting: Waiting, tmp_path: Path) -> None:
    data = tmp_path / "shard.txt"
    data.write_text("text to train on\n" * 100, encoding="utf-8")
    assert error_of(waiting.invite("owner"), tmp_path / "state", data) is None
    (folder,) = (tmp_path / "state").glob("run-*")
    (folder / "tokenizer.json").write_text(other_tokenizer(), encoding="utf-8")
    assert error_of(waiting.invite("owner"), tmp_path / "state", data) is None
    found = Keepsake(folder).admission(waiting.config.fingerprint)
    assert found is not None
    assert found.tokenizer == b""


def test_another_tokenizer_from_the_scheduler(
    waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "shard.txt"
    data.write_text("text to train on\n" * 100, encoding="utf-8")

    class Wrong(Admission):
        def __init__(self, certificate: bytes, config: object, tokenizer: bytes) -> None:
            super().__init__(certificate, config, other_tokenizer().encode())  # type: ignore[arg-type]

    monkeypatch.setattr("swarm.net.admitting.Admission", Wrong)
    words = refusal(error_of(waiting.invite("owner"), tmp_path / "state", data), "S113")
    assert BYTE_TOKENIZER in words
    assert identify(other_tokenizer()) in words


def test_a_mistyped_invite(waiting: Waiting, tmp_path: Path) -> None:
    """Refused before any library is loaded; every single wrong character is (see the unit tests of admission)."""
    invite = waiting.invite("host")
    mistyped = invite[:60] + ("A" if invite[60] != "A" else "B") + invite[61:]
    words = run_command("join", mistyped, "--state-dir", str(tmp_path / "state")).failed_with("S301")
    assert "damaged or forged" in words
    assert not (tmp_path / "state").exists()


# --- row 11: clocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead_s", [10.0, -10.0, HOUR_S, -HOUR_S])
def test_a_clock_that_is_off(waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    """Also where it was right at the first time: a member that comes back is refused as well."""
    invite = waiting.invite("host", lifetime_s=2 * HOUR_S)
    right = time.time
    assert error_of(invite, tmp_path) is None
    for state in (tmp_path, tmp_path / "new"):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: right() + ahead_s)
            words = refusal(error_of(invite, state), "S309")
        way = "ahead of" if ahead_s > 0 else "behind"
        said_s = float(words.partition("clock is ")[2].partition(" s ")[0].replace(",", ""))
        assert abs(said_s - abs(ahead_s)) < 3.0, words
        assert f"s {way} the clock of {waiting.peer_id}" in words
    assert error_of(invite, tmp_path) is None


def test_a_clock_that_is_off_by_less_is_let_in(
    waiting: Waiting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 1.5)
    assert error_of(waiting.invite("host"), tmp_path) is None


JUMPING = (
    "import os, sys, time; right = time.time; "
    "time.time = lambda: right() + (3600.0 if os.path.exists(os.environ['JUMP']) else 0.0); "
    "from swarm.cli import main; sys.argv[0] = 'swarm'; main()"
)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("warm_starts")
def test_a_clock_that_jumps_in_mid_run_is_told_and_costs_nothing(rig: Rig, tmp_path: Path) -> None:
    jump = tmp_path / "jump"
    with rig(steps=150) as fleet:
        fleet.commands = {"host-4": ("-c", JUMPING)}
        fleet.extra_environment = {"host-4": {"JUMP": str(jump)}}
        joiner = fleet.join("host-4", fleet.run_dir / "invites" / "host.txt")
        peer = fleet.peer_id("host-4")
        fleet.scheduler.wait_for("plan", lambda event: any(peer in stage["replicas"] for stage in event["stages"]))
        jump.touch()
        told = joiner.wait_until(lambda event: "clock" in event.get("text", ""), "word of the jump", HOUR_S)
        assert "3,600.0 s ahead of the clock of" in told["text"] or "3,599." in told["text"]
        fleet.wait_finished(300.0)
        assert not [event for event in fleet.scheduler.events if event["event"] == "lost"]
        check_history(fleet, 150)
