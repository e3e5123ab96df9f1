"""A whole swarm on this machine: real processes, started and watched through their JSON lines."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from swarm.errors import DeadlineExceeded, RunError
from swarm.toml_text import to_toml

START_S = 180.0
"""Loading the libraries in every process of a fleet at once takes a busy two-core machine a minute."""
_STOP_S = 20.0
_PR_SET_PDEATHSIG = 1

Event = dict[str, Any]


class Program:
    """One `swarm` process and what it tells.

    Args:
        name: for people, and of its log files.
        arguments: of the console command.
        folder: where its output is kept.
        environment: added to ours.
        command: what runs the console command; the module `swarm` by default.
        wrapper: what runs Python, such as a command that enters a network namespace.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = ("-m", "swarm"),
        wrapper: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.events: list[Event] = []
        self.companions: list[Program] = []
        self._changed = threading.Condition()
        self._errors = folder / f"{name}.stderr"
        folder.mkdir(parents=True, exist_ok=True)
        with self._errors.open("wb") as errors:
            self.process = Popen(
                [*wrapper, sys.executable, *command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | dict(environment or {}),
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self._log = folder / f"{name}.jsonl"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self._log.open("wb") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                with self._changed:
                    self.events.append(event)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, what: str, matches: Callable[[Event], bool] | None = None, timeout_s: float = START_S) -> Event:
        """The first event of a kind that matches, now or later; errors as `wait_until`."""
        return self.wait_until(
            lambda event: event.get("event") == what and (matches is None or matches(event)), repr(what), timeout_s
        )

    def wait_until(self, matches: Callable[[Event], bool], what: str, timeout_s: float) -> Event:
        """The first event that matches; every earlier one is shown to `matches` once, in order.

        Args:
            what: named in errors.

        Raises:
            RunError: the process ended without it; with its last words.
            DeadlineExceeded: it took longer than `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        seen = 0
        while True:
            with self._changed:
                while seen == len(self.events):
                    self._check(what, deadline_s, timeout_s)
                    self._changed.wait(1.0)
                event = self.events[seen]
            seen += 1
            if matches(event):
                return event

    def _check(self, what: str, deadline_s: float, timeout_s: float) -> None:
        for companion in self.companions:
            status = companion.process.poll()
            if status is not None and status > 0:
                raise RunError(f"{companion.name} ended with status {status}: {companion.last_words}", "see its log")
        if not self._reader.is_alive():
            raise RunError(
                f"{self.name} ended with status {self.process.wait()} before {what}: {self.last_words}",
                f"see {self._log} and {self._errors}",
            )
        if time.monotonic() > deadline_s:
            newest = "; ".join(f"{each.name} last told {each.newest_event}" for each in (self, *self.companions))
            raise DeadlineExceeded(
                f"{self.name} did not tell {what} within {timeout_s:.0f} s ({newest})", f"see {self._log}"
            )

    def expect_success(self, timeout_s: float = START_S) -> None:
        """Wait for the process to end well; raises RunError with its last words."""
        try:
            status = self.process.wait(timeout_s)
        except BaseException:
            self.stop()
            raise
        if status:
            raise RunError(f"swarm {self.name} failed: {self.last_words}", f"see {self._errors}")
        self._reader.join(_STOP_S)

    @property
    def newest_event(self) -> str:
        """The end of what it told, short enough for a sentence."""
        return str(self.events[-1])[:300] if self.events else "nothing"

    @property
    def last_words(self) -> str:
        """The last line of its standard error."""
        return self.error_lines[-1] if self.error_lines else "it said nothing"

    @property
    def error_lines(self) -> list[str]:
        """Its standard error."""
        return self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()

    def kill(self) -> None:
        """SIGKILL, no goodbye."""
        self.process.kill()
        self.process.wait()

    def leave(self) -> None:
        """Let it end by itself, for a while."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_S)

    def stop(self) -> int:
        """Ask it to end, insist after a while; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(_STOP_S)
        return self.process.returncode


def end_with_parent() -> None:
    """Linux tells this process to end when the one that started it is gone, also after SIGKILL.

    It hears Ctrl+C even where we were started in a shell's background, which ignores it and would hand that down.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Further Ctrl+C must not leave half of a fleet behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class Fleet:
    """A scheduler, data owners and hosts. Use it as a context manager: leaving it stops every process.

    Args:
        folder: new; holds the run and every peer's state and logs.
        run: values of a run.toml.
        corpora: one private shard an owner.
        num_hosts: volunteers.
        num_stages: of the trunk; 0 leaves it to the planner.
        extra_environment: by program name (`owner-0`, `host-1`), added to that process.
        commands: by program name, what runs its console command.
        options: by program name, added to its arguments.
        wrappers: by program name, as `Program`.
    """

    folder: Path
    run: Mapping[str, Any]
    corpora: Sequence[Path]
    num_hosts: int
    num_stages: int = 0
    extra_environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    wrappers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    programs: dict[str, Program] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        """The admin's folder."""
        return self.folder / "run"

    @property
    def scheduler(self) -> Program:
        """The scheduler's process."""
        return self.programs["scheduler"]

    def __enter__(self) -> Fleet:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with _uninterrupted():
            self._stop(*exception)

    def _stop(self, *exception: object) -> None:
        if (
            exception
            and exception[0] is None
            and any(event.get("event") == "finished" for event in self.scheduler.events)
        ):
            for program in self.programs.values():
                program.leave()
        for program in self.programs.values():
            if program.process.poll() is None:
                program.process.send_signal(signal.SIGTERM)
        for program in self.programs.values():
            program.stop()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "fleet.toml"
        config.write_text(to_toml(self.run, {}), encoding="utf-8")
        logs = self.folder / "logs"
        name = str(self.run.get("name", "fleet"))
        init = Program("init", ["init", str(self.run_dir), "--name", name, "--config", str(config)], logs)
        init.expect_success()
        arguments = ["scheduler", str(self.run_dir), "--json"]
        arguments += ["--hosts", str(self.num_hosts), "--owners", str(len(self.corpora))]
        arguments += ["--stages", str(self.num_stages)]
        self.start_program("scheduler", arguments)
        invites = self.scheduler.wait_for("listening")["invites"]
        for index, corpus in enumerate(self.corpora):
            self.join(f"owner-{index}", Path(invites["owner"]), "--data", str(corpus))
        for index in range(self.num_hosts):
            self.join(f"host-{index}", Path(invites["host"]))

    def resume(self, num_hosts: int, num_owners: int) -> dict[str, Path]:
        """Start the scheduler again after it ended, where it listened before; returns its new invites by role."""
        port = self.scheduler.wait_for("listening")["addresses"][0].split("/")[4]
        arguments = ["resume", str(self.run_dir), "--json", "--port", port]
        arguments += ["--hosts", str(num_hosts), "--owners", str(num_owners)]
        self.start_program("scheduler", arguments)
        return {role: Path(path) for role, path in self.scheduler.wait_for("listening")["invites"].items()}

    def start_standby(self, name: str) -> Program:
        """Start one more scheduler, which follows the one that leads; its folder bears its name."""
        invite = self.scheduler.wait_for("listening")["invites"]["scheduler"]
        return self.start_program(name, ["scheduler", str(self.folder / name), "--standby", invite, "--json"])

    def join(self, name: str, invite: Path, *options: str) -> Program:
        """Start one more peer."""
        state = str(self.folder / name)
        return self.start_program(name, ["join", str(invite), "--state-dir", state, "--json", *options])

    def start_program(self, name: str, arguments: Sequence[str]) -> Program:
        """Start a process of the fleet."""
        program = Program(
            name,
            [*arguments, *self.options.get(name, ())],
            self.folder / "logs",
            self.extra_environment.get(name),
            self.commands.get(name, ("-m", "swarm")),
            self.wrappers.get(name, ()),
        )
        self.programs[name] = program
        if name != "scheduler":
            self.scheduler.companions.append(program)  # waiting for the scheduler is vain once one of them failed
        return program

    def peer_id(self, name: str) -> str:
        """The libp2p id of a started peer."""
        return str(self.programs[name].wait_for("joined")["peer"])

    def wait_step(self, step: int, timeout_s: float = START_S) -> Event:
        """Until so many steps are committed."""
        return self.scheduler.wait_for("step", lambda event: event["step"] >= step, timeout_s)

    def wait_finished(self, timeout_s: float) -> Path:
        """Until the run is over; the last checkpoint's folder."""
        return Path(self.scheduler.wait_for("finished", timeout_s=timeout_s)["checkpoint"])
