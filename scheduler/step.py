"""The step leader: one optimizer step after another, decided without a clock, a network or a tensor.

    state     leaves when                                              to        sends
    OPEN      every microbatch of the global batch is done             CLOSING   CloseStep to every member
    CLOSING   a replica misses something the ledger gave it            OPEN      ReopenStep to all, ReplayWork to owners
    CLOSING   every replica's books agree and its round is prepared    REDUCING  GoRound
    REDUCING  a round failed, or hashes of one group differ            HELD      ReopenStep to all; CheckPeers
    REDUCING  every group reduced, hashes equal                        OPEN + 1  Record, then CommitStep, then leases
    HELD      the shell has checked who lives                          CLOSING   as from OPEN
    any       a peer is lost                                           OPEN      ReopenStep, ReplayWork of its share
    any       a group without a member, or no sense left in going on   HALTED    Halt
    OPEN      the last step is applied everywhere                      FINISHED  Finish

Every event is a method; every method returns the instructions that the shell carries out in order. Reports that come
twice, late, or from somebody they cannot come from change nothing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from swarm.plan import Plan
from swarm.wire.messages import (
    CloseStep,
    CommitStep,
    GoRound,
    GrantLeases,
    Lease,
    MicrobatchDone,
    PeersLost,
    ReopenStep,
    ReplayWork,
    RoundFailed,
    RoundReduced,
    StepApplied,
    StepClosed,
)

MAX_FAILED_ROUNDS = 5
"""Rounds of one step that may fail in a row, all members alive, before the run halts."""

Member = tuple[int, str]
"""Group number and peer id: a replica of a trunk stage, or an owner in the group of the ends."""


class Phase(enum.Enum):
    """Where the step is."""

    OPEN = "open"
    CLOSING = "closing"
    REDUCING = "reducing"
    HELD = "held"
    HALTED = "halted"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver a message to a peer, after all that was sent to it before."""

    peer: str
    message: object


@dataclass(frozen=True, slots=True)
class NewPlan:
    """Seal the plan and send it to everybody in it."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Record:
    """Make the step durable before anything that follows is carried out."""

    step: int
    plan: int
    round: int
    tokens: int
    loss_sum: float
    grad_norm: float
    work: tuple[tuple[str, MicrobatchDone], ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckPeers:
    """Find out which of these live, then report `checked`."""

    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """Every member holds the weights after `num_steps` steps; `digests` by group."""

    num_steps: int
    digests: tuple[str, ...]
    snapshot: bool


@dataclass(frozen=True, slots=True)
class Halt:
    """The run cannot go on."""

    problem: str
    stage: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Every step is applied."""


Instruction = Send | NewPlan | Record | CheckPeers | Applied | Halt | Finish


@dataclass(slots=True)
class _Entry:
    """A microbatch number of the open step."""

    lease: int = 0
    owner: str = ""
    done: MicrobatchDone | None = None


@dataclass(slots=True)
class _Applying:
    """A committed step whose members still report."""

    waiting: set[Member]
    digests: dict[int, str]
    snapshot: bool


@dataclass(slots=True)
class StepLeader:
    """Leads the steps of one plan after another.

    Args:
        plan: the first plan; its members are alive and hold their stages.
        term: of this leader; part of all it sends.
        global_batch: microbatches a step.
        microbatch_tokens: tokens of one microbatch; a report with another number is ignored.
        next_step: the step to begin with.
        num_steps: the run ends after this many.
        checkpoint_every_steps: members keep a snapshot after every so many.
    """

    plan: Plan
    term: int
    global_batch: int
    microbatch_tokens: int
    next_step: int
    num_steps: int
    checkpoint_every_steps: int
    phase: Phase = Phase.OPEN
    step: int = 0
    round: int = 0
    lost: set[str] = field(default_factory=set)
    ignored_reports: int = 0
    _failed_rounds: int = 0
    _entries: list[_Entry] = field(default_factory=list)
    _waiting: set[Member] = field(default_factory=set)
    _reduced: dict[Member, RoundReduced] = field(default_factory=dict)
    _applying: dict[int, _Applying] = field(default_factory=dict)

    # --- events ----------------------------------------------------------------------------------------------------

    def start(self) -> list[Instruction]:
        """Every member of the first plan is ready."""
        self.step = self.next_step
        return self._open()

    def done(self, owner: str, report: MicrobatchDone) -> list[Instruction]:
        """An owner's microbatch was counted by every stage of its route."""
        entry = self._entry_for(owner, report)
        if entry is None:
            return self._ignore()
        if any(peer in self.lost for peer in report.route):
            return [self._replay(owner, (report.work.lease,))]
        entry.done = report
        instructions = self._grant(owner, 1)
        if all(candidate.done is not None for candidate in self._entries):
            instructions += self._close()
        return instructions

    def closed(self, peer: str, report: StepClosed) -> list[Instruction]:
        """A replica compared its books with the ledger."""
        member = (report.stage, peer)
        if self.phase is not Phase.CLOSING or not self._is_current(report) or member not in self._waiting:
            return self._ignore()
        if report.missing:
            replays = self._replay_missing(report)
            return self._reopen() + replays if replays else self.peer_lost(peer)
        self._waiting.discard(member)
        if self._waiting:
            return []
        self.phase = Phase.REDUCING
        self._reduced = {}
        return [
            Send(peer, GoRound(term=self.term, step=self.step, stage=stage, round=self.round))
            for stage, peer in self._members()
        ]

    def reduced(self, peer: str, report: RoundReduced) -> list[Instruction]:
        """A member holds the average of its group."""
        member = (report.stage, peer)
        if self.phase is not Phase.REDUCING or not self._is_current(report) or member not in self._members():
            return self._ignore()
        self._reduced[member] = report
        if len(self._reduced) < len(self._members()):
            return []
        groups = {(stage, reduced.digest, reduced.square_norm) for (stage, _), reduced in self._reduced.items()}
        if len(groups) != len(self.plan.groups):
            return self._hold("replicas of one group report different averages")
        square_norm = math.fsum(square for _, _, square in groups)
        if not math.isfinite(square_norm):
            return self._halt("the gradient is not finite: lower the learning rate", -1)
        return self._commit(math.sqrt(square_norm))

    def failed(self, peer: str, report: RoundFailed) -> list[Instruction]:
        """A member's round has a hole."""
        if self.phase is not Phase.REDUCING or not self._is_current(report):
            return self._ignore()
        if (report.stage, peer) not in self._members():
            return self._ignore()
        return self._hold(report.problem)

    def checked(self) -> list[Instruction]:
        """The shell has reported every dead peer as lost; the others live."""
        return self._close() if self.phase is Phase.HELD else []

    def applied(self, peer: str, report: StepApplied) -> list[Instruction]:
        """A member holds the weights after a committed step."""
        applying = self._applying.get(report.step)
        member = (report.stage, peer)
        if applying is None or member not in applying.waiting:
            return self._ignore()
        applying.waiting.discard(member)
        if applying.digests.setdefault(report.stage, report.digest) != report.digest:
            return self._halt("two replicas hold different weights after one step", report.stage)
        return self._settle_applied()

    def peer_lost(self, peer: str) -> list[Instruction]:
        """A peer is gone for good: what it held must be computed again."""
        if peer in self.lost or self.phase is Phase.HALTED:
            return []
        groups = self.plan.groups_of(peer)
        self.lost.add(peer)
        if not groups:
            return []
        if self.phase is Phase.FINISHED:
            return self._forget_applying(peer)
        for stage, members in enumerate(self.plan.groups):
            if all(member in self.lost for member in members):
                return self._halt("the last replica is gone", stage)
        instructions: list[Instruction] = self._forget_applying(peer)
        if self.phase is not Phase.OPEN:
            instructions += self._reopen()
        for owner in self._owners():
            instructions.append(Send(owner, PeersLost(term=self.term, peers=(peer,))))
        return instructions + self._recover_work_of(peer)

    # --- transitions -----------------------------------------------------------------------------------------------

    def _open(self) -> list[Instruction]:
        self.phase = Phase.OPEN
        self.round = 0
        self._failed_rounds = 0
        self._entries = [_Entry() for _ in range(self.global_batch)]
        instructions: list[Instruction] = []
        shares = self._first_shares()
        for owner in self._owners():
            instructions += self._grant(owner, shares)
        return instructions

    def _close(self) -> list[Instruction]:
        self.phase = Phase.CLOSING
        self.round += 1
        self._waiting = set(self._members())
        counted: dict[Member, list[Lease]] = {member: [] for member in self._waiting}
        for entry in self._entries:
            assert entry.done is not None
            for stage, peer in enumerate((*entry.done.route, entry.owner)):
                counted[stage, peer].append(entry.done.work.lease)
        tokens = {member: len(leases) * self.microbatch_tokens for member, leases in counted.items()}
        instructions: list[Instruction] = []
        for stage, peer in self._members():
            members = tuple(other for group, other in self._members() if group == stage)
            instructions.append(
                Send(
                    peer,
                    CloseStep(
                        term=self.term,
                        plan=self.plan.number,
                        step=self.step,
                        stage=stage,
                        round=self.round,
                        counted=tuple(sorted(counted[stage, peer])),
                        members=members,
                        tokens=tuple(tokens[stage, other] for other in members),
                    ),
                )
            )
        return instructions

    def _reopen(self) -> list[Instruction]:
        self.phase = Phase.OPEN
        return [
            Send(peer, ReopenStep(term=self.term, step=self.step, stage=stage, round=self.round))
            for stage, peer in self._members()
        ]

    def _hold(self, problem: str) -> list[Instruction]:
        self._failed_rounds += 1
        if self._failed_rounds >= MAX_FAILED_ROUNDS:
            return self._halt(f"{MAX_FAILED_ROUNDS} rounds failed in a row, the last because {problem}", -1)
        instructions = self._reopen()
        self.phase = Phase.HELD
        peers = tuple(sorted({peer for _, peer in self._members()}))
        return [*instructions, CheckPeers(peers)]

    def _commit(self, grad_norm: float) -> list[Instruction]:
        num_steps = self.step + 1
        snapshot = num_steps % self.checkpoint_every_steps == 0 or num_steps == self.num_steps
        instructions: list[Instruction] = [self._record(grad_norm)]
        for stage, peer in self._members():
            instructions.append(
                Send(
                    peer,
                    CommitStep(
                        term=self.term,
                        plan=self.plan.number,
                        step=self.step,
                        stage=stage,
                        round=self.round,
                        grad_norm=grad_norm,
                        snapshot=snapshot,
                    ),
                )
            )
        self._applying[self.step] = _Applying(set(self._members()), {}, snapshot)
        self.step = num_steps
        if self.step == self.num_steps:
            self.phase = Phase.FINISHED
            return instructions
        if any(self.plan.groups_of(peer) for peer in self.lost):
            self.plan = self.plan.without(frozenset(self.lost), self.step)
            instructions.append(NewPlan(self.plan))
        return instructions + self._open()

    def _halt(self, problem: str, stage: int) -> list[Instruction]:
        self.phase = Phase.HALTED
        return [Halt(problem, stage)]

    # --- the ledger ------------------------------------------------------------------------------------------------

    def _entry_for(self, owner: str, report: MicrobatchDone) -> _Entry | None:
        """The open entry that a report is about, or None where the report cannot be true."""
        number = report.work.lease.number
        stages = self.plan.stages
        if self.phase is not Phase.OPEN or report.work.step != self.step or number >= len(self._entries):
            return None
        entry = self._entries[number]
        if entry.owner != owner or entry.lease != report.work.lease.lease or entry.done is not None:
            return None
        if report.tokens != self.microbatch_tokens or not math.isfinite(report.loss_sum):
            return None
        if len(report.route) != len(stages):
            return None
        if any(peer not in stage.replicas for peer, stage in zip(report.route, stages, strict=True)):
            return None
        return entry

    def _grant(self, owner: str, count: int) -> list[Instruction]:
        leases: list[Lease] = []
        for number, entry in enumerate(self._entries):
            if len(leases) == count:
                break
            if not entry.owner:
                entry.owner = owner
                leases.append(Lease(number, entry.lease))
        if not leases:
            return []
        return [
            Send(
                owner,
                GrantLeases(term=self.term, plan=self.plan.number, step=self.step, leases=tuple(leases)),
            )
        ]

    def _first_shares(self) -> int:
        """Leases an owner starts with: its window, but no more than an equal share."""
        equal = -(-self.global_batch // len(self._owners()))
        return min(self.plan.window, equal)

    def _replay(self, owner: str, leases: Iterable[Lease]) -> Send:
        return Send(
            owner,
            ReplayWork(term=self.term, step=self.step, leases=tuple(leases), lost=tuple(sorted(self.lost))),
        )

    def _replay_missing(self, report: StepClosed) -> list[Instruction]:
        """Replays of what a replica misses; none where it misses what the ledger never gave it."""
        owned: dict[str, list[Lease]] = {}
        for lease in report.missing:
            if lease.number >= len(self._entries):
                continue
            entry = self._entries[lease.number]
            if entry.done is not None and entry.done.work.lease == lease:
                entry.done = None
                owned.setdefault(entry.owner, []).append(lease)
        return [self._replay(owner, leases) for owner, leases in owned.items()]

    def _recover_work_of(self, peer: str) -> list[Instruction]:
        """Lease a dead owner's numbers to others; have a dead host's share replayed."""
        instructions: list[Instruction] = []
        owned: dict[str, list[Lease]] = {}
        orphans = 0
        for number, entry in enumerate(self._entries):
            if entry.owner == peer:
                entry.owner, entry.done, entry.lease = "", None, entry.lease + 1
                orphans += 1
            elif entry.done is not None and peer in entry.done.route:
                entry.done = None
                owned.setdefault(entry.owner, []).append(Lease(number, entry.lease))
        for owner, leases in owned.items():
            instructions.append(self._replay(owner, leases))
        owners = self._owners()
        for owner in owners:
            instructions += self._grant(owner, -(-orphans // len(owners)))
        if all(entry.done is not None for entry in self._entries) and self.phase is Phase.OPEN and self._entries:
            instructions += self._close()
        return instructions

    def _record(self, grad_norm: float) -> Record:
        reports = [(entry.owner, entry.done) for entry in self._entries if entry.done is not None]
        digests = {stage: report.digest for (stage, _), report in self._reduced.items()}
        return Record(
            step=self.step,
            plan=self.plan.number,
            round=self.round,
            tokens=sum(report.tokens for _, report in reports),
            loss_sum=math.fsum(report.loss_sum for _, report in reports),
            grad_norm=grad_norm,
            work=tuple(reports),
            digests=tuple(digests[stage] for stage in sorted(digests)),
        )

    # --- members ---------------------------------------------------------------------------------------------------

    def _members(self) -> list[Member]:
        return [
            (stage, peer) for stage, members in enumerate(self.plan.groups) for peer in members if peer not in self.lost
        ]

    def _owners(self) -> list[str]:
        return [peer for peer in self.plan.owners if peer not in self.lost]

    def _is_current(self, report: StepClosed | RoundReduced | RoundFailed) -> bool:
        return report.step == self.step and report.round == self.round

    def _ignore(self) -> list[Instruction]:
        self.ignored_reports += 1
        return []

    def _forget_applying(self, peer: str) -> list[Instruction]:
        for applying in self._applying.values():
            applying.waiting = {member for member in applying.waiting if member[1] != peer}
        return self._settle_applied()

    def _settle_applied(self) -> list[Instruction]:
        instructions: list[Instruction] = []
        for step in sorted(self._applying):
            applying = self._applying[step]
            if applying.waiting:
                break
            del self._applying[step]
            digests = tuple(applying.digests[stage] for stage in sorted(applying.digests))
            instructions.append(Applied(step + 1, digests, applying.snapshot))
        if self.phase is Phase.FINISHED and not self._applying:
            instructions.append(Finish())
        return instructions
