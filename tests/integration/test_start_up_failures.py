"""Everything that keeps a process from starting: a number of its own, and a remedy that works when it is followed.

Each test provokes one failure with the real console command, reads the sentence, does what it says, and starts again.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from scheduler.new_run import create
from scheduler.run_dir import RunDir, make_invite
from swarm.local.fleet import Program
from tests.support.processes import MODULE
from tests.support.waiting import SECTIONS, Waiting, waiting_run, write_config
from tests.support.warm import WarmServer

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.usefixtures("warm_starts")]

PATIENCE_S = 180.0
MIB = 1 << 20
CLI = "from swarm.cli import main; sys.argv[0] = 'swarm'; main()"
NEWER = f"import sys, swarm.net.endpoint as endpoint; endpoint.PROTOCOL_VERSION = 99; {CLI}"
AHEAD = f"import sys, time; right = time.time; time.time = lambda: right() + 60.0; {CLI}"
FEW_FILES = f"import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8)); {CLI}"
DAEMON = (
    "import asyncio.subprocess, sys; start = asyncio.subprocess.create_subprocess_exec; "
    f"asyncio.subprocess.create_subprocess_exec = lambda *args, **options: start({{}}, **options); {CLI}"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory, warm_server: WarmServer) -> Iterator[Waiting]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swarm.local.fleet.Popen", warm_server.popen)
        with waiting_run(tmp_path_factory.mktemp("waiting")) as run:
            yield run


class Starts:
    """Starts processes of the console command."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.programs: list[Program] = []

    def program(self, *arguments: str, command: Sequence[str] = MODULE) -> Program:
        name = f"{arguments[0]}-{len(self.programs)}"
        self.programs.append(Program(name, arguments, self._folder / "logs", command=command))
        return self.programs[-1]

    def fails(self, code: str, *arguments: str, command: Sequence[str] = MODULE) -> str:
        """Its last words: one numbered sentence, and the exit status that belongs to it."""
        failed = self.program(*arguments, command=command)
        assert failed.process.wait(PATIENCE_S) == 10 + int(code[1]), failed.last_words
        numbered = [line for line in failed.error_lines if re.match(r"\[S\d{3}\] ", line)]
        assert len(numbered) == 1, failed.error_lines
        assert numbered[0].startswith(f"[{code}] "), numbered
        return numbered[0]

    def joins(self, *arguments: str) -> Program:
        """The remedy was followed: it gets so far that it waits for the others."""
        joined = self.program(*arguments)
        joined.wait_until(lambda event: "announced" in event.get("text", ""), "announcement", PATIENCE_S)
        return joined


@pytest.fixture
def starts(tmp_path: Path) -> Iterator[Starts]:
    made = Starts(tmp_path)
    yield made
    for program in made.programs:
        program.stop()


@pytest.fixture
def join(waiting: Waiting, tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a host's `swarm join`, with options added."""

    def arguments(*options: str, invite: str = "", state: str = "state") -> list[str]:
        chosen = invite or waiting.invite("host")
        return ["join", chosen, "--state-dir", str(tmp_path / state), "--json", *options]

    return arguments


Join = Callable[..., list[str]]


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_port_is_taken(starts: Starts, join: Join) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "choose another --port" in starts.fails("S201", *join("--port", port))
        starts.joins(*join("--port", "0"))


def test_the_address_is_not_this_machines(starts: Starts, join: Join) -> None:
    assert "192.0.2.1" in starts.fails("S201", *join("--host", "192.0.2.1", "--port", "4001"))
    starts.joins(*join("--host", "127.0.0.1"))


def test_no_member_of_the_run_can_be_reached(starts: Starts, join: Join, tmp_path: Path) -> None:
    create(tmp_path / "run", "test", write_config(tmp_path / "c.toml", SECTIONS), None)
    run_dir = RunDir(tmp_path / "run")
    config = run_dir.load_config()
    first = starts.program("scheduler", str(run_dir.root), "--json", "--hosts", "9")
    port = first.wait_for("listening")["addresses"][0].split("/")[4]
    invite = make_invite(config, run_dir.load_admin(config), run_dir.addresses(), ("host",), 5, 600.0)
    first.stop()
    assert "whether the run goes on" in starts.fails("S203", *join(invite=invite))
    starts.program("scheduler", str(run_dir.root), "--json", "--hosts", "9", "--port", port).wait_for("listening")
    starts.joins(*join(invite=invite))


def test_the_daemon_is_missing(starts: Starts, join: Join) -> None:
    starts.fails("S202", *join(), command=("-c", DAEMON.format("'/nowhere/p2pd'")))
    starts.joins(*join())


def test_the_daemon_dies_at_once(starts: Starts, join: Join) -> None:
    starts.fails("S202", *join(), command=("-c", DAEMON.format("'false'")))
    starts.joins(*join())


# --- the machine ------------------------------------------------------------------------------------------------------


def test_the_clock_is_off(starts: Starts, join: Join) -> None:
    assert "60 s ahead" in starts.fails("S309", *join(), command=("-c", AHEAD)).replace(".0 s", " s")
    starts.joins(*join())


def test_too_few_open_files(starts: Starts, join: Join) -> None:
    assert "ulimit -n 4096" in starts.fails("S130", *join(), command=("-c", FEW_FILES))
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 4096
    starts.joins(*join())


@needs_root
def test_the_disk_is_full(starts: Starts, join: Join, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine's root may not mount")
    try:
        (disk / "filler").write_bytes(bytes(MIB))
        assert "free space" in starts.fails("S604", *join(state="disk"))
        (disk / "filler").unlink()
        starts.joins(*join(state="disk")).stop()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_the_memory_limit_holds_no_layer(starts: Starts, join: Join) -> None:
    assert "--memory-mib" in starts.fails("S130", *join("--memory-mib", "1"))
    starts.joins(*join("--memory-mib", "2048"))


def test_the_device_is_not_there(starts: Starts, join: Join) -> None:
    assert "cuda" in starts.fails("S100", *join("--device", "cuda:7"))
    starts.joins(*join("--device", "cpu"))


def test_a_line_too_thin_for_any_run(starts: Starts, join: Join) -> None:
    assert "0.26" in starts.fails("S100", *join("--up-mbit", "0.1"))
    starts.joins(*join("--up-mbit", "0.3"))


# --- the invite -------------------------------------------------------------------------------------------------------


def test_a_mistyped_invite(starts: Starts, join: Join, waiting: Waiting) -> None:
    invite = waiting.invite("host")
    assert "the whole line" in starts.fails("S301", *join(invite=invite[:-5] + "aaaaa"))
    starts.joins(*join(invite=invite))


def test_an_invite_past_its_time(starts: Starts, join: Join, waiting: Waiting) -> None:
    assert "new" in starts.fails("S302", *join(invite=waiting.invite("host", lifetime_s=-1.0)))
    starts.joins(*join(invite=waiting.invite("host")))


def test_an_invite_that_others_used_up(starts: Starts, join: Join, waiting: Waiting) -> None:
    invite = waiting.invite("host", uses=1)
    starts.joins(*join(invite=invite, state="first"))
    assert "new invite" in starts.fails("S302", *join(invite=invite))
    starts.joins(*join(invite=waiting.invite("host")))


def test_another_version_of_the_protocol(starts: Starts, join: Join) -> None:
    assert "same version" in starts.fails("S304", *join(), command=("-c", NEWER))
    starts.joins(*join())


# --- the data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code"), [(None, "S110"), (b"\xff\xfe\xfa", "S110"), (b"", "S111"), (b"short", "S112")]
)
def test_a_shard_that_cannot_be_used(
    starts: Starts, join: Join, waiting: Waiting, tmp_path: Path, content: bytes | None, code: str
) -> None:
    shard = tmp_path / "shard.txt"
    if content is not None:
        shard.write_bytes(content)
    arguments = join("--data", str(shard), invite=waiting.invite("owner"))
    assert str(shard) in starts.fails(code, *arguments)
    shard.write_text("Once upon a time there was a shard that was long enough. " * 20, encoding="utf-8")
    starts.joins(*arguments)


# --- the folders ------------------------------------------------------------------------------------------------------


def test_the_folder_is_in_use(starts: Starts, join: Join) -> None:
    first = starts.joins(*join())
    starts.fails("S306", *join())
    first.stop()
    starts.joins(*join())


def test_one_key_in_two_folders(starts: Starts, join: Join, tmp_path: Path) -> None:
    starts.joins(*join())
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "state" / "identity.key", tmp_path / "copy")
    assert "--state-dir" in starts.fails("S306", *join(state="copy"))
    starts.joins(*join(state="new"))


def test_the_identity_is_damaged(starts: Starts, join: Join, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "identity.key").write_bytes(b"not a key")
    starts.fails("S100", *join())
    (tmp_path / "state" / "identity.key").unlink()
    starts.joins(*join())


def test_a_scheduler_where_no_run_is(starts: Starts, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert "swarm init" in starts.fails("S100", "scheduler", run, "--json")
    assert starts.program("init", run, "--name", "test").process.wait(PATIENCE_S) == 0
    starts.program("scheduler", run, "--json").wait_for("listening")


def test_a_configuration_with_a_mistyped_key(starts: Starts, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.toml", SECTIONS | {"optimizer": {"learning_rat": 0.1}})
    arguments = ["init", str(tmp_path / "run"), "--name", "test", "--config", str(config)]
    assert "learning_rate" in starts.fails("S101", *arguments)
    write_config(config, SECTIONS | {"optimizer": {"learning_rate": 0.1}})
    assert starts.program(*arguments).process.wait(PATIENCE_S) == 0
