"""Doing harm, and proving that it was done: signals to a process or its group, and a peer's line taken down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.wan.namespaces import Place
from swarm.errors import RunError
from swarm.local.fleet import Program

_PROOF_S = 10.0
_LINE = "line"
"""A peer's own end of its veth pair in `benchmarks.wan.namespaces`."""
_BROKEN = "look at what else handles signals or links on this machine"


def kill(program: Program) -> str:
    """SIGKILL; what proves it.

    Raises:
        RunError: the process ended otherwise.
    """
    program.kill()
    if program.process.returncode != -signal.SIGKILL:
        raise RunError(f"{program.name} ended with {program.process.returncode}, not by our signal", _BROKEN)
    return f"pid {program.process.pid} ended by signal {-program.process.returncode}"


def freeze(program: Program) -> str:
    """SIGSTOP to the process and its daemon, as when a laptop sleeps; what proves it.

    Raises:
        RunError: it goes on.
    """
    os.killpg(program.process.pid, signal.SIGSTOP)
    return _proven(program, "stopped", lambda: _states(program) == {psutil.STATUS_STOPPED})


def thaw(program: Program) -> str:
    """SIGCONT; what proves it.

    Raises:
        RunError: it does not go on.
    """
    os.killpg(program.process.pid, signal.SIGCONT)
    return _proven(program, "going on", lambda: psutil.STATUS_STOPPED not in _states(program))


def _states(program: Program) -> set[str]:
    """Of the process and its children."""
    parent = psutil.Process(program.process.pid)
    return {process.status() for process in (parent, *parent.children(recursive=True))}


def _proven(program: Program, what: str, holds: Callable[[], bool]) -> str:
    deadline_s = time.monotonic() + _PROOF_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise RunError(f"{program.name} is not {what} {_PROOF_S:.0f} s after the signal", _BROKEN)
        time.sleep(0.01)
    return f"pid {program.process.pid} is {what}"


@dataclass(frozen=True, slots=True)
class Lines:
    """The network namespaces that programs run in.

    Args:
        places: by program name; empty where there are none, so that nobody can be cut off.
    """

    places: Mapping[str, Place] = field(default_factory=dict)

    def cut(self, name: str) -> str:
        """Take a peer's line down; what proves it. Others hear nothing from it, not even a reset.

        Raises:
            RunError: it is still up.
        """
        return self._set(name, "down")

    def mend(self, name: str) -> str:
        """Take it up again; what proves it.

        Raises:
            RunError: it is still down.
        """
        return self._set(name, "up")

    def lose(self, senders: Iterable[str], receivers: Iterable[str]) -> str:
        """What these send to those is lost, one way, without a word to anybody; what proves it.

        Raises:
            RunError: it is not.
        """
        pairs = [(self.places[one], self.places[other].address) for one in senders for other in receivers]
        for place, address in pairs:
            place.lose(address)
        if not pairs or not all(place.loses(address) for place, address in pairs):
            raise RunError("what should be lost would arrive", _BROKEN)
        return f"{len(pairs)} ways lose everything"

    def part(self, one: Sequence[str], other: Sequence[str]) -> str:
        """Two sides hear nothing from each other; what proves it. Raises RunError where they do."""
        return f"{self.lose(one, other)}, and back {self.lose(other, one)}"

    def join(self) -> None:
        """Everything arrives again."""
        for place in self.places.values():
            for other in self.places.values():
                if place.loses(other.address):
                    place.find(other.address)

    def _set(self, name: str, state: str) -> str:
        space = self.places[name].space
        _ip("-n", space, "link", "set", _LINE, state)
        flags = json.loads(_ip("-n", space, "-j", "link", "show", _LINE))[0]["flags"]
        if ("UP" in flags) != (state == "up"):
            raise RunError(f"the line of {name} is not {state}", _BROKEN)
        return f"{_LINE} in {space} is {state}"


def _ip(*arguments: str) -> str:
    done = subprocess.run(("ip", *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"ip {' '.join(arguments)} failed: {done.stderr.strip()}", "see whether the kernel has it")
    return done.stdout


@dataclass(slots=True)
class Daemons:
    """Child processes of killed programs: each must end by itself soon."""

    patience_s: float = 10.0
    orphans: list[str] = field(default_factory=list)
    _watched: list[tuple[str, float, psutil.Process]] = field(default_factory=list)

    def of(self, program: Program) -> list[psutil.Process]:
        """The children that a program has now."""
        children: list[psutil.Process] = psutil.Process(program.process.pid).children(recursive=True)
        return children

    def watch(self, name: str, children: list[psutil.Process]) -> None:
        """Their parent was killed just now."""
        self._watched.extend((name, time.monotonic() + self.patience_s, child) for child in children)

    def look(self) -> None:
        """Note and end those that outlived their parent by too long."""
        for entry in tuple(self._watched):
            name, deadline_s, child = entry
            if not child.is_running() or child.status() == psutil.STATUS_ZOMBIE:
                self._watched.remove(entry)
            elif time.monotonic() > deadline_s:
                self.orphans.append(f"{name}: {Path(child.name()).name}")
                child.kill()
                self._watched.remove(entry)
