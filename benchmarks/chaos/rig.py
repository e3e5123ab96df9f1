"""The fleet under faults: who is there, who leads, and how each program is started again as its machine would."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.history import PlanShape
from scheduler.run_dir import RunDir, make_invite
from swarm.local.fleet import Event, Fleet, Program

LEADER = "scheduler"
_LEADS = frozenset({"leading", "plan", "step"})
"""Events that only a scheduler that leads tells."""
_INVITE_USES = 1000
_INVITE_S = 86_400.0
_READY = frozenset({"joined", "following", "leading"})
"""Events by which a program says that it is there again."""


class Role(enum.StrEnum):
    """What a program is; also how its name begins, but for the first scheduler."""

    HOST = "host"
    OWNER = "owner"
    SCHEDULER = "scheduler"


def role_of(name: str) -> Role:
    """By a program's name."""
    kind = name.partition("-")[0]
    return Role(kind) if kind in ("host", "owner") else Role.SCHEDULER


@dataclass(slots=True)
class Rig:
    """A started fleet with standby schedulers, and all programs that ever ran in it.

    Args:
        fleet: entered.
        num_standbys: schedulers beside the first.
    """

    fleet: Fleet
    num_standbys: int
    invites: dict[str, Path] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)
    """Programs that are killed, frozen or cut off right now, and how."""
    ever: list[tuple[str, Program]] = field(default_factory=list)
    """Every process by its program's name, in the order they were started."""
    _starts: dict[str, int] = field(default_factory=dict)
    _addresses: dict[str, list[str]] = field(default_factory=dict)

    def open(self) -> None:
        """Take over the fleet's programs, start the standbys, and make invites that name all schedulers.

        Raises:
            RunError: a standby ended too early.
            DeadlineExceeded: it takes too long.
        """
        self.ever.extend(self.fleet.programs.items())
        listening = self.fleet.scheduler.wait_for("listening")
        self.invites = {role: Path(path) for role, path in listening["invites"].items()}
        self._addresses[LEADER] = listening["addresses"]
        for number in range(self.num_standbys):
            name = f"standby-{number}"
            self._invite(name, "scheduler", list(self._addresses.values()))
            self._addresses[name] = self._start_scheduler(name).wait_for("listening")["addresses"]
        if self.num_standbys:
            for role in (Role.HOST, Role.OWNER):
                self._invite(role, role, list(self._addresses.values()))
            for name in self._addresses:
                others = [addresses for other, addresses in self._addresses.items() if other != name]
                self._invite(name, "scheduler", others)

    def _invite(self, label: str, role: str, addresses: list[list[str]]) -> None:
        """Write an invite that is found under a label."""
        run_dir = RunDir(self.fleet.run_dir)
        config = run_dir.load_config()
        bootstrap = tuple(address for each in addresses for address in each)
        text = make_invite(config, run_dir.load_admin(config), bootstrap, (role,), _INVITE_USES, _INVITE_S)
        self.invites[label] = self.fleet.folder / f"invite-{label}.txt"
        self.invites[label].write_text(text, encoding="utf-8")

    # --- starting --------------------------------------------------------------------------------------------------

    def start_again(self, name: str) -> Program:
        """Start a program that ended, with the same state folder; its earlier logs are kept under other names."""
        self._starts[name] = self._starts.get(name, 0) + 1
        for suffix in ("jsonl", "stderr"):
            log = self.fleet.folder / "logs" / f"{name}.{suffix}"
            log.replace(log.with_name(f"{name}.{self._starts[name]}.{suffix}"))
        role = role_of(name)
        if role is Role.SCHEDULER:
            return self._start_scheduler(name)  # also the first one: somebody else may lead by now
        options = ("--data", str(self.fleet.corpora[int(name.partition("-")[2])])) if role is Role.OWNER else ()
        program = self.fleet.join(name, self.invites[role], *options)
        self.ever.append((name, program))
        return program

    def _start_scheduler(self, name: str) -> Program:
        """As a standby; it listens where it did, so that those who knew it find it again."""
        arguments = ["scheduler", str(self.folder_of(name)), "--standby", str(self.invites[name]), "--json"]
        if name in self._addresses:
            arguments += ["--port", self._addresses[name][0].split("/")[4]]
        program = self.fleet.start_program(name, arguments)
        self.ever.append((name, program))
        return program

    def folder_of(self, name: str) -> Path:
        """A scheduler's run folder."""
        return self.fleet.run_dir if name == LEADER else self.fleet.folder / name

    # --- who is there ----------------------------------------------------------------------------------------------

    def names(self, role: Role) -> list[str]:
        """All programs of a role, sorted."""
        return sorted(name for name in self.fleet.programs if role_of(name) is role)

    def present(self, role: Role) -> list[str]:
        """Those of them that run, are ready, and have nothing done to them."""
        return [name for name in self.names(role) if name not in self.away and self.is_ready(name)]

    def is_ready(self, name: str) -> bool:
        """Whether a program runs and has told that it takes part."""
        program = self.fleet.programs[name]
        if program.process.poll() is not None:
            return False
        first = name == LEADER and name not in self._starts
        return first or any(event.get("event") in _READY for event in tuple(program.events))

    @property
    def leader(self) -> str:
        """The scheduler that leads in the highest term; empty if none of those that run ever led."""
        found: list[tuple[int, float, str]] = []
        for name in self.names(Role.SCHEDULER):
            program = self.fleet.programs[name]
            leads = [event for event in tuple(program.events) if event.get("event") in _LEADS]
            if leads and program.process.poll() is None:
                term = max(event.get("term", 0) for event in leads)
                found.append((term, leads[-1]["time_s"], name))
        return max(found)[2] if found else ""

    @property
    def standbys(self) -> list[str]:
        """Schedulers that could lead in the place of the leader."""
        leader = self.leader
        return [name for name in self.present(Role.SCHEDULER) if name != leader]

    def ended(self) -> list[str]:
        """Programs whose process ended though nothing was done to it."""
        return [
            name
            for name, program in self.fleet.programs.items()
            if program.process.poll() is not None and self.away.get(name) != "killed"
        ]

    def peer_id(self, name: str) -> str:
        """Of a peer: any of its processes told it; it is kept in the state folder."""
        told = [event for other, program in self.ever if other == name for event in tuple(program.events)]
        return str(next(event["peer"] for event in told if event.get("event") == "joined"))

    # --- what they told --------------------------------------------------------------------------------------------

    def events(self, *kinds: str) -> Iterator[Event]:
        """Events of these kinds, of all schedulers' processes that ever ran."""
        for name, program in self.ever:
            if role_of(name) is Role.SCHEDULER:
                yield from (event for event in tuple(program.events) if event.get("event") in kinds)

    @property
    def steps_told(self) -> set[int]:
        """Numbers of steps, from 0, that people were told are committed."""
        return {event["step"] - 1 for event in self.events("step")}

    @property
    def newest_step(self) -> int:
        """Steps committed so far, as told."""
        return max((step + 1 for step in self.steps_told), default=0)

    @property
    def last_members(self) -> tuple[int, int]:
        """How many hosts and owners have a place in the newest plan that was told."""
        told = sorted(self.events("plan"), key=lambda event: (event["number"], event["time_s"]))
        newest = _shape(told[-1]) if told else PlanShape((), frozenset())
        return sum(len(stage) for stage in newest.stages), len(newest.owners)

    @property
    def newest_checkpoint(self) -> int:
        """The step of the newest checkpoint that was told."""
        return max((event["step"] for event in self.events("checkpoint")), default=0)

    @property
    def plans(self) -> dict[int, list[PlanShape]]:
        """Every plan that was told, by number; a leader that died may have told one that nobody got."""
        told: dict[int, list[PlanShape]] = {}
        for event in self.events("plan"):
            told.setdefault(event["number"], []).append(_shape(event))
        return told

    @property
    def plans_by_time(self) -> list[tuple[float, PlanShape]]:
        """When every plan was told; one that a leader told for nothing counts until the next."""
        told = sorted(self.events("plan"), key=lambda event: float(event["time_s"]))
        return [(float(event["time_s"]), _shape(event)) for event in told]

    def wait(self, what: str, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Poll until something holds; False when it takes too long."""
        deadline_s = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > deadline_s:
                self.note({"event": "timeout", "what": what, "after_s": timeout_s})
                return False
            time.sleep(0.1)
        return True

    def note(self, event: dict[str, Any]) -> None:
        """Write down what was done to the fleet, beside the programs' own logs."""
        with (self.fleet.folder / "logs" / "chaos.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"time_s": round(time.time(), 3)} | event) + "\n")


def _shape(event: Event) -> PlanShape:
    stages = tuple(frozenset(stage["replicas"]) for stage in event["stages"])
    return PlanShape(stages, frozenset(event["owners"]))
