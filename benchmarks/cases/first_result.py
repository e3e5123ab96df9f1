"""From nothing to a first useful result: commands and seconds of each of the people whom the README addresses.

The README is followed word for word: the lines of its marked blocks (`benchmarks/readme.py`), by real processes in a
new folder a person, who all share this machine. The ports that it names must be free. Whatever people send one another,
an invite and no more, is carried over as soon as it is there.

- setup: `swarm` can be typed, from the sources of the last commit; pip has an empty cache.
- admin: the run has committed a step, and the dashboard shows it.
- volunteer and owner: they have computed a microbatch. It takes all three of them, so all three start together.
- researcher: a result is on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from benchmarks.corpora import write_random_shards
from benchmarks.readme import first_results
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from peers.control import ask
from swarm.errors import ConfigError, DeadlineExceeded, NotRunning, RunError
from swarm.local.fleet import end_with_parent

_SOURCES = Path(__file__).resolve().parents[2]
_SERVING = ("swarm scheduler ", "swarm join ")
"""They stay in the foreground: the next line is typed in another terminal."""
_LOOK_S = 0.1
_ANSWER_S = 10.0
_STOP_S = 30.0
_TEXT_CHARACTERS = 200_000
_DASHBOARD = "http://127.0.0.1:8080/metrics"
PEOPLE = ("admin", "volunteer", "owner", "researcher")

QUICK = {"install": False}

_Blocks = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    install: bool = True
    """Set up as the README says; else take this installation, and count its commands but no time."""
    limit_s: float = 1800.0
    """For each command, and for each result."""


@dataclass(slots=True)
class Person:
    """Somebody with a machine of their own: here a folder, which is their home, too.

    Args:
        lines: that they type.
        environment: of their shell.
        limit_s: for each line.
        has_result: whether their folder shows what they came for.
    """

    name: str
    folder: Path
    lines: tuple[str, ...]
    environment: Mapping[str, str]
    limit_s: float
    has_result: Callable[[Path], bool]
    started_s: float = 0.0
    finished_s: float = 0.0
    _serving: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def type_all(self) -> None:
        """Type every line; raises RunError where one fails."""
        self.started_s = time.monotonic()
        for line in self.lines:
            if line.startswith(_SERVING):
                self._serving.append(self._start(line))
            elif self._start(line).wait(self.limit_s):
                raise RunError(f"the README's command fails: {line}", f"see {self.log}")

    def look(self) -> bool:
        """Whether the result is there; raises RunError where what should bring it ended."""
        if not self.finished_s and self.has_result(self.folder):
            self.finished_s = time.monotonic()
        if not self.finished_s and any(process.poll() for process in self._serving):
            raise RunError(f"the {self.name} has no result: a command ended", f"see {self.log}")
        return bool(self.finished_s)

    @property
    def took_s(self) -> float:
        """From the first line to the result."""
        return self.finished_s - self.started_s

    @property
    def log(self) -> Path:
        """What the commands said."""
        return self.folder / "terminal.log"

    def _start(self, line: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["bash", "-c", line],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def close(self) -> None:
        """Ctrl+C in every terminal."""
        for process in self._serving:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        for process in self._serving:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run(options: Options) -> Result:
    """Be everybody in turn.

    Raises:
        ConfigError: the sources with their README are not here.
        RunError: something that the README says does not work.
        DeadlineExceeded: it does not lead to a result.
    """
    readme = _SOURCES / "README.md"
    if not readme.exists():
        raise ConfigError("the README is not here", "run this case from the sources")
    blocks = first_results(readme.read_text(encoding="utf-8"))
    folder = Path(tempfile.mkdtemp(prefix="swarm-first-"))
    if options.install:
        environment, setup_s = _set_up(blocks["setup"], folder, options.limit_s)
    else:
        environment, setup_s = _this_installation(folder), 0.0
    taken = _train(blocks, folder, environment, options) | _measure(blocks, folder, environment, options)
    metrics: dict[str, float] = {"setup_commands": len(blocks["setup"]), "setup_s": setup_s}
    for name in PEOPLE:
        metrics[f"{name}_commands"] = len(blocks["setup"]) + len(blocks[name])
        metrics[f"{name}_after_setup_s"] = taken[name]
        metrics[f"{name}_s"] = setup_s + taken[name]
    shutil.rmtree(folder)
    return Result.measured("first-result", options, metrics, {}, blocks={name: list(blocks[name]) for name in blocks})


def _set_up(lines: tuple[str, ...], folder: Path, limit_s: float) -> tuple[dict[str, str], float]:
    """Follow the README in a fresh copy of the last commit; the shell's environment after it, and its seconds."""
    checkout = folder / "swarm"
    try:
        subprocess.run(
            ["git", "clone", "--quiet", "--no-local", "--depth", "1", str(_SOURCES), str(checkout)],
            check=True,
            timeout=limit_s,
        )
    except (OSError, subprocess.SubprocessError):
        raise ConfigError("the sources cannot be copied: this is no git repository", "give --install=false") from None
    keep = folder / "environment"
    person = Person(
        "setup", checkout, ("\n".join(["set -e", *lines, f"env -0 > {keep}"]),), _clean(folder), limit_s, Path.exists
    )
    person.type_all()
    person.look()
    found = dict(each.split("=", 1) for each in keep.read_text(encoding="utf-8").split("\0") if "=" in each)
    return found, person.took_s


def _this_installation(folder: Path) -> dict[str, str]:
    """`swarm` is the program that runs here."""
    program = folder / "bin" / "swarm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m swarm "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    ours = _clean(folder)
    return ours | {"PATH": f"{program.parent}:{ours['PATH']}", "PYTHONPATH": str(_SOURCES)}


def _clean(folder: Path) -> dict[str, str]:
    """Of somebody who was never here; who sets up shares a home with nobody."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    left_out = ("VIRTUAL_ENV", "PYTHONPATH", "XDG_CACHE_HOME", "PIP_CACHE_DIR")
    return {name: value for name, value in os.environ.items() if name not in left_out} | {"HOME": str(home)}


def _train(blocks: _Blocks, folder: Path, environment: Mapping[str, str], options: Options) -> dict[str, float]:
    """The admin, two volunteers and a data owner; the second volunteer is there because the run waits for two."""

    def person(name: str, block: str, has_result: Callable[[Path], bool]) -> Person:
        home = folder / name
        home.mkdir()
        return Person(
            name, home, blocks[block], {**environment, "HOME": str(home)}, options.limit_s, has_result=has_result
        )

    admin = person("admin", "admin", _has_invites)
    volunteers = [person(name, "volunteer", _has_computed) for name in ("volunteer", "second")]
    owner = person("owner", "owner", _has_computed)
    with contextlib.ExitStack() as stack:
        for each in (owner, *volunteers, admin):
            stack.callback(each.close)
        admin.type_all()
        _wait([admin], options.limit_s)
        admin.finished_s, admin.has_result = 0.0, _shows_steps
        write_random_shards(owner.folder / "my-text", options.seed, 1, _TEXT_CHARACTERS)
        for each in (*volunteers, owner):
            role = "owner" if each is owner else "host"
            shutil.copyfile(admin.folder / "my-run" / "invites" / f"{role}.txt", each.folder / "invite.txt")
            each.type_all()
        _wait([admin, volunteers[0], owner], options.limit_s)
    return {each.name: each.took_s for each in (admin, volunteers[0], owner)}


def _measure(blocks: _Blocks, folder: Path, environment: Mapping[str, str], options: Options) -> dict[str, float]:
    """The researcher, alone on the machine."""
    home = folder / "researcher"
    home.mkdir()
    researcher = Person(
        "researcher", home, blocks["researcher"], {**environment, "HOME": str(home)}, options.limit_s, _has_figures
    )
    researcher.type_all()
    _wait([researcher], options.limit_s)
    return {"researcher": researcher.took_s}


def _wait(people: Sequence[Person], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while late := [person for person in people if not person.look()]:
        if time.monotonic() > deadline_s:
            raise DeadlineExceeded(f"the {late[0].name} has no result after {limit_s:.0f} s", f"see {late[0].log}")
        time.sleep(_LOOK_S)


def _has_invites(folder: Path) -> bool:
    return all((folder / "my-run" / "invites" / f"{role}.txt").exists() for role in ("host", "owner"))


def _shows_steps(folder: Path) -> bool:
    try:
        with urlopen(_DASHBOARD, timeout=_ANSWER_S) as answer:
            shown = answer.read().decode()
    except OSError:
        return False
    return any(float(line.split()[1]) > 0 for line in shown.splitlines() if line.startswith("swarm_steps_total "))


def _has_computed(folder: Path) -> bool:
    try:
        return bool(ask(folder / ".swarm", "me")["computed_microbatches"])
    except NotRunning:
        return False


def _has_figures(folder: Path) -> bool:
    return bool(json.loads((folder / "result.json").read_text(encoding="utf-8"))["metrics"])
