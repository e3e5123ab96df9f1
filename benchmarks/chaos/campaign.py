"""Carries a schedule of faults out on a rig, starts again what it killed, and notices who ends without being killed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.chaos import faults
from benchmarks.chaos.faults import Daemons, Lines
from benchmarks.chaos.rig import Rig, Role, role_of
from benchmarks.chaos.schedule import Kind, PlannedFault, fallbacks, pick
from benchmarks.chaos.stalls import Absence

_TICK_S = 0.05
_RESTART_S = 3.0
"""A volunteer's service manager waits so long before it starts a program again that ended by itself."""
MOST_EXITS = 30
"""Programs that end by themselves are started again so often, all together."""


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that provably fired.

    Attributes:
        planned: kind, as the schedule had it; `kind` is what was done.
        at_s: by the wall clock.
        late_s: after the time that the schedule had for it.
        proof: what was seen of the process or its line.
    """

    planned: Kind
    kind: Kind
    victim: str
    at_s: float
    late_s: float
    step: int
    proof: str


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that ended though nobody killed it."""

    name: str
    at_s: float
    status: int
    last_words: str


@dataclass(slots=True)
class Campaign:
    """The faults of one run.

    Args:
        rig: running.
        lines: of those who can be cut off.
        most_away: no fault strikes while so many are away: killed, frozen, cut off, or not yet back.
        replaces: a fault that finds nobody to strike gives way to another kind; else it waits.
    """

    rig: Rig
    lines: Lines
    most_away: int
    replaces: bool = True
    struck: list[Struck] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    daemons: Daemons = field(default_factory=Daemons)
    absences: list[Absence] = field(default_factory=list)
    longest_wait_s: float = 0.0
    """Between two faults."""
    _pending: list[tuple[float, str]] = field(default_factory=list)
    _away_since_s: dict[str, float] = field(default_factory=dict)

    def strike(self, schedule: Sequence[PlannedFault], duration_s: float, *, stops_when_done: bool = False) -> None:
        """Carry out a schedule, and watch to the end of the time, or of the schedule where that is asked for.

        What comes late delays all that follows: a backlog would strike again and again at the same moment, as soon as
        there is somebody to strike.

        Raises:
            RunError: a fault did not fire.
        """
        began_s = last_s = time.monotonic()
        late_s = 0.0
        waiting = list(schedule)
        while (now_s := time.monotonic() - began_s) < duration_s:
            if stops_when_done and not waiting:
                return
            self.tend()
            if waiting and now_s >= waiting[0].at_s + late_s and self._fire(waiting[0], now_s):
                late_s = max(late_s, now_s - waiting.pop(0).at_s)
                self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - last_s)
                last_s = time.monotonic()
            time.sleep(_TICK_S)

    def _fire(self, fault: PlannedFault, now_s: float) -> bool:
        """Strike; False where nobody may be struck now."""
        if len(self.absent) >= self.most_away:
            return False
        for kind in (fault.kind, *(fallbacks(fault.kind) if self.replaces else ())):
            victim = pick(fault.choice, self.victims(kind))
            if victim:
                self.do_now(kind, victim, fault.lasts_s, planned=fault.kind, late_s=now_s - fault.at_s)
                return True
        return False

    def do_now(self, kind: Kind, victim: str, lasts_s: float, planned: Kind | None = None, late_s: float = 0.0) -> None:
        """Strike, and bring the victim back after so long; `tend` does that.

        Raises:
            RunError: the fault did not fire.
        """
        step, at_s = self.rig.newest_step, time.time()
        proof = self._do(kind, victim)
        self._pending.append((time.monotonic() + lasts_s, victim))
        self._away_since_s[victim] = at_s
        self.struck.append(Struck(planned or kind, kind, victim, at_s, late_s, step, proof))
        self.rig.note({"event": "fault", "kind": kind, "victim": victim, "proof": proof, "step": step})

    @property
    def absent(self) -> list[str]:
        """Everybody who is not there, or not there again."""
        return [name for name in self.rig.fleet.programs if name in self.rig.away or not self.rig.is_ready(name)]

    def victims(self, kind: Kind) -> list[str]:
        """Whom a kind can strike now: never the last owner, and no leader that nobody could follow."""
        if kind in (Kind.KILL_LEADER, Kind.FREEZE_LEADER):
            leader = self.rig.leader
            there = leader not in self.rig.away and bool(leader)
            return [leader] if there and (self.rig.standbys or kind is Kind.FREEZE_LEADER) else []
        if kind in (Kind.KILL_OWNER, Kind.FREEZE_OWNER, Kind.CUT_OWNER):
            found = self.rig.present(Role.OWNER)
            found = found if len(found) > 1 else []
        else:
            found = self.rig.present(Role.HOST)
        return [name for name in found if name in self.lines.places] if kind.is_cut else found

    def _do(self, kind: Kind, victim: str) -> str:
        program = self.rig.fleet.programs[victim]
        if kind.is_kill:
            children = self.daemons.of(program)
            self.rig.away[victim] = "killed"
            proof = faults.kill(program)
            self.daemons.watch(victim, children)
            return proof
        if kind.is_cut:
            self.rig.away[victim] = "cut"
            return self.lines.cut(victim)
        self.rig.away[victim] = "frozen"
        return faults.freeze(program)

    # --- and back --------------------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Bring back whoever is due, and notice who ended."""
        for entry in sorted(self._pending):
            due_s, name = entry
            if due_s <= time.monotonic():
                self._pending.remove(entry)
                self._bring_back(name)
        for name in self.rig.ended():
            if name not in self.rig.away or self.rig.away[name] == "cut":
                self._notice_exit(name)
        self.daemons.look()

    def _notice_exit(self, name: str) -> None:
        program = self.rig.fleet.programs[name]
        ended = Exit(name, time.time(), program.process.returncode, program.last_words)
        self.exits.append(ended)
        self.rig.note({"event": "exit", "name": name, "status": ended.status, "last_words": ended.last_words})
        was_cut = self.rig.away.get(name) == "cut"
        self.rig.away[name] = "ended"
        if was_cut:  # it is started again when its line is up
            return
        if len(self.exits) <= MOST_EXITS:
            self._pending.append((time.monotonic() + _RESTART_S, name))

    def _bring_back(self, name: str) -> None:
        how = self.rig.away.pop(name)
        if name in self.lines.places:
            self.lines.mend(name)
        if how == "frozen":
            proof = faults.thaw(self.rig.fleet.programs[name])
        elif how == "cut":
            proof = "its line is up"
        elif role_of(name) is Role.SCHEDULER and not self.rig.num_standbys:
            self.rig.away[name] = "ended"
            return
        else:
            proof = f"pid {self.rig.start_again(name).process.pid} was started"
        if name in self._away_since_s and role_of(name) is not Role.SCHEDULER:
            self.absences.append(Absence(self.rig.peer_id(name), self._away_since_s.pop(name), time.time()))
        self.rig.note({"event": "back", "name": name, "was": how, "proof": proof})

    def release(self) -> None:
        """Undo what would keep a process from being stopped."""
        for _, name in self._pending:
            if self.rig.away.get(name) == "frozen":
                faults.thaw(self.rig.fleet.programs[name])
            elif self.rig.away.get(name) == "cut":
                self.lines.mend(name)
        self._pending.clear()
