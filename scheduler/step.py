"""The step leader: one optimizer step after another, decided without a clock, a network or a tensor.

    state     leaves when                                              to        sends
    OPEN      every microbatch of the global batch is done             CLOSING   CloseStep to every member
    CLOSING   a replica misses something the ledger gave it            OPEN      ReopenStep to all, ReplayWork to owners
    CLOSING   every replica's books agree and its round is prepared    REDUCING  GoRound
    REDUCING  a round failed, or hashes of one group differ            HELD      ReopenStep to all; CheckPeers
    REDUCING  a second round failed, and somebody is blamed            REDUCING  Lost: whoever is blamed most
    REDUCING  every group reduced, hashes equal                        OPEN + 1  Record, then CommitStep, then leases
    HELD      the shell has checked who lives                          CLOSING   as from OPEN
    any       values are not finite                                    HALTED    Halt
    any       a peer is lost                                           OPEN      ReopenStep, ReplayWork of its share
    any       a group without a member, or too few members to know     HALTED    Regroup
              that nobody else leads
    any       no sense left in going on                                HALTED    Halt
    REDUCING  as above, but the admin paused the run                   PAUSED    Record, CommitStep, RunPaused to all
    PAUSED    the admin lets it go on                                  OPEN      RunPaused (no more) to all, leases
    OPEN      the last step is applied everywhere                      FINISHED  Finish

With staleness 1 microbatches of the next step are lent and done, too, in every state, on the weights before those of
the commit that is to come; their step opens with what is done by then. Only at the end of a plan nobody runs ahead: the
first step of a plan is on the newest weights, every other one on those before.

A run that is paused takes what is still done of a step that was lent ahead, but lends nothing and closes nothing.

Every event is a method; every method returns the instructions that the shell carries out in order. Reports that come
twice, late, or from somebody they cannot come from change nothing.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from dataclasses import dataclass, field

from scheduler.applying import Applying
from scheduler.candidacy import is_majority, voters_of
from scheduler.followers import Committed
from scheduler.instructions import (
    CheckPeers,
    Finish,
    Halt,
    Instruction,
    Lost,
    NewPlan,
    Record,
    Regroup,
    Send,
)
from scheduler.ledger import Ledger, Member, OpenLedgers
from scheduler.orders import Orders
from scheduler.step_record import pack
from scheduler.transition import PlanChange
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import (
    CannotContinue,
    GrantLeases,
    GroupLoaded,
    GroupNotLoaded,
    MicrobatchDone,
    PeersLost,
    ReplayWork,
    RoundFailed,
    RoundKey,
    RoundReduced,
    RunPaused,
    StepApplied,
    StepClosed,
    Work,
)

PATIENT_ROUNDS = 2
"""Of one step: when so many failed, whoever is blamed most goes. Two that cannot reach each other blame each other."""
BREAKER_AWAY_S = 30.0
"""Such a member answers at once, and would break the next round; twice as long the next time."""
MAX_FAILED_ROUNDS = 5
"""Rounds of one step that may fail in a row, all members alive and nobody to blame, before the run halts."""


class Phase(enum.Enum):
    """Where the step is."""

    OPEN = "open"
    CLOSING = "closing"
    REDUCING = "reducing"
    HELD = "held"
    PAUSED = "paused"
    HALTED = "halted"
    FINISHED = "finished"


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
        cursors: by owner, the first microbatch of its shard that no committed step has used.
        has_rivals: other schedulers may be elected, so that a majority of a plan's members must be here.
        staleness: 1 where the next step's microbatches do not wait for this step's commit.
        is_paused: no step begins.
    """

    plan: Plan
    term: int
    global_batch: int
    microbatch_tokens: int
    next_step: int
    num_steps: int
    checkpoint_every_steps: int
    cursors: dict[str, int] = field(default_factory=dict)
    has_rivals: bool = False
    staleness: int = 0
    is_paused: bool = False
    phase: Phase = Phase.OPEN
    step: int = 0
    round: int = 0
    lost: set[str] = field(default_factory=set)
    ignored_reports: int = 0
    _failed_rounds: int = 0
    _blamed: Counter[str] = field(default_factory=Counter)
    _open_ledgers: OpenLedgers = field(init=False)
    _waiting: set[Member] = field(default_factory=set)
    _reduced: dict[Member, RoundReduced] = field(default_factory=dict)
    _applying: Applying = field(default_factory=Applying)
    _change: PlanChange = field(init=False)
    _checkpoint_is_due: bool = False
    _plan_before: Plan | None = None

    def __post_init__(self) -> None:
        self._change = PlanChange(self.term)
        self._open_ledgers = OpenLedgers(self.global_batch, self.microbatch_tokens)

    # --- events ----------------------------------------------------------------------------------------------------

    def start(self) -> list[Instruction]:
        """Every member of the first plan is ready."""
        self.step = self.next_step
        self._change.holds(self.plan)
        return self._open()

    def pause(self) -> list[Instruction]:
        """The open step is the last one until `unpause`."""
        self.is_paused = True
        return []

    def unpause(self) -> list[Instruction]:
        """Steps may begin again."""
        self.is_paused = False
        return self._tell_paused() + self._begin() if self.phase is Phase.PAUSED else []

    def done(self, owner: str, report: MicrobatchDone) -> list[Instruction]:
        """An owner's microbatch was counted by every stage of its route."""
        step = report.work.step
        ledger = self._open_ledgers.of(step)
        if ledger is None or not self._is_open(step) or not ledger.accept(self.plan, owner, report):
            return self._ignore()
        if any(peer in self.lost for peer in report.route):
            return self._replay(step, ledger.reopen([report.work.lease]))
        return self._lend(owner) + self._close_if_complete()

    def closed(self, peer: str, report: StepClosed) -> list[Instruction]:
        """A replica compared its books with the ledger."""
        member = (report.stage, peer)
        if self.phase is not Phase.CLOSING or not self._is_current(report) or member not in self._waiting:
            return self._ignore()
        if report.missing:
            replays = self._replay(self.step, self._ledger.reopen(report.missing))
            if not replays:
                return [Lost(peer, "it misses microbatches that the ledger never gave it")]
            return self._reopen() + replays
        self._waiting.discard(member)
        if self._waiting:
            return []
        self.phase = Phase.REDUCING
        self._reduced = {}
        return self._orders.go()

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
        square_norm = sum(sorted(square for _, _, square in groups))  # math.fsum raises where this is infinite
        if not 0 <= square_norm < math.inf:
            return self._halt("the gradient is not finite: lower the learning rate", -1)
        return self._commit(math.sqrt(square_norm))

    def failed(self, peer: str, report: RoundFailed) -> list[Instruction]:
        """A member's round has a hole; whoever rounds break on again and again is lost, alive or not."""
        members = self._members()
        if not self._is_current(report) or (report.stage, peer) not in members:
            return self._ignore()
        if (report.stage, report.blamed) in members:
            self._blamed[report.blamed] += 1
        if self.phase is not Phase.REDUCING:
            return self._ignore()
        suspects = {blamed: count for blamed, count in self._blamed.items() if blamed not in self.lost}
        if self._failed_rounds + 1 >= PATIENT_ROUNDS and suspects:
            self._blamed.clear()
            self._failed_rounds = 0
            culprit = max(sorted(suspects), key=suspects.__getitem__)
            return [Lost(culprit, f"rounds break on it: {report.problem}", BREAKER_AWAY_S)]
        return self._hold(report.problem)

    def cannot_continue(self, peer: str, report: CannotContinue) -> list[Instruction]:
        """A member cannot do its part."""
        if self.phase is Phase.HALTED or report.step != self.step or (report.stage, peer) not in self._members():
            return self._ignore()
        if report.diverged and self.phase is not Phase.FINISHED:
            return self._halt(f"{report.problem}: lower the learning rate", -1)
        return [Lost(peer, report.problem)]

    def checked(self) -> list[Instruction]:
        """The shell has reported every dead peer as lost; the others live."""
        return self._close() if self.phase is Phase.HELD else []

    def applied(self, peer: str, report: StepApplied) -> list[Instruction]:
        """A member holds the weights after a committed step."""
        plan = self._applying.report(peer, report)
        if plan is None:
            return self._ignore()
        if not self._applying.agrees(report):
            return self._halt("two replicas hold different weights after one step", report.stage)
        span = plan.span_of(report.stage)
        return self._change.applied(span, report.step + 1, report.digest) + self._settle_applied()

    def peer_lost(self, peer: str) -> list[Instruction]:
        """A peer is gone for good: what it held must be computed again."""
        if peer in self.lost or self.phase is Phase.HALTED:
            return []
        self.lost.add(peer)
        self._applying.forget(peer)  # of steps under earlier plans, too
        instructions = self._settle_applied() + self._change.lose(self.lost)
        if self.phase is Phase.FINISHED or not self.plan.groups_of(peer):
            return instructions
        for stage, members in enumerate(self.plan.groups):
            if all(member in self.lost for member in members):
                return self._regroup("the last replica is gone", stage)
        if self.has_rivals and not self._has_majority:
            return self._regroup("half of the members cannot be reached, and may follow another scheduler", -1)
        if self.phase not in (Phase.OPEN, Phase.PAUSED):
            instructions += self._reopen()
        for owner in self._owners():
            instructions.append(Send(owner, PeersLost(term=self.term, peers=(peer,))))
        for step, owned in self._open_ledgers.lose(peer):
            instructions += self._replay(step, owned)
        return instructions + self._lend_to_all() + self._close_if_complete()

    def returned(self, peer: str) -> bool:
        """Whether a peer that was lost may begin anew: not while the plan still counts on what it held."""
        if peer in self.lost and not self.plan.groups_of(peer):
            self.lost.discard(peer)
        return peer not in self.lost

    def propose(self, target: Plan) -> bool:
        """Change to another plan as soon as everybody in it holds what it needs; False while another change is on.

        Args:
            target: its spans, replicas and owners count; its number and first step come with the change.
        """
        if self.phase in (Phase.HALTED, Phase.FINISHED):
            return False
        return self._change.propose(self.plan, target, self.lost)

    def load_shadows(self) -> None:
        """Hosts that should keep a copy of another stage may load it: nobody else needs members' copies now."""
        if not self.is_changing:
            self._change.load_shadows()

    @property
    def is_changing(self) -> bool:
        """Whether no plan can be proposed: a change is on its way, or members still make a checkpoint's copy."""
        return self._change.is_on or self._applying.makes_checkpoint

    @property
    def coming(self) -> Plan | None:
        """The plan that was proposed."""
        return self._change.target

    def group_loaded(self, peer: str, report: GroupLoaded) -> list[Instruction]:
        """A follower holds the state after some step."""
        return self._change.loaded(peer, report, self.step)

    def group_not_loaded(self, peer: str, report: GroupNotLoaded) -> list[Instruction]:
        """A follower cannot load what it should."""
        return self._change.not_loaded(peer, report)

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """Peers whose report the step waits for right now, sorted."""
        match self.phase:
            case Phase.OPEN:
                return self._ledger.owners_at_work
            case Phase.CLOSING:
                return tuple(sorted({peer for _, peer in self._waiting}))
            case Phase.REDUCING:
                return tuple(sorted({peer for stage, peer in self._members() if (stage, peer) not in self._reduced}))
            case _:
                return tuple(sorted({peer for _, peer in self._applying.members}))

    # --- transitions -----------------------------------------------------------------------------------------------

    def _open(self) -> list[Instruction]:
        self.round = 0
        self._failed_rounds = 0
        self._blamed.clear()
        if not self.is_paused:
            return self._begin()
        self.phase = Phase.PAUSED
        return self._tell_paused()

    def _tell_paused(self) -> list[Instruction]:
        peers = sorted({peer for _, peer in self._members()})
        return [Send(peer, RunPaused(term=self.term, paused=self.is_paused)) for peer in peers]

    def _begin(self) -> list[Instruction]:
        self.phase = Phase.OPEN
        self._open_ledgers.open(self.step)
        if self._runs_ahead():
            self._open_ledgers.open(self.step + 1)
        return self._lend_to_all() + self._close_if_complete()

    def _runs_ahead(self) -> bool:
        """Whether the next step's microbatches need not wait: not where its plan may be another one."""
        is_last = self.step + 1 == self.num_steps
        plan_ends = self._has_lost_members or self._change.is_ready(self.step)
        return self.staleness == 1 and not is_last and not plan_ends

    @property
    def _ledger(self) -> Ledger:
        """Of the step that is committed next."""
        return self._open_ledgers.open(self.step)

    def _is_open(self, step: int) -> bool:
        """Whether microbatches of a step may be done."""
        if step == self.step:
            return self.phase in (Phase.OPEN, Phase.PAUSED)
        return self.phase not in (Phase.HALTED, Phase.FINISHED)

    def _close_if_complete(self) -> list[Instruction]:
        return self._close() if self.phase is Phase.OPEN and self._ledger.is_complete else []

    def _close(self) -> list[Instruction]:
        self.phase = Phase.CLOSING
        self.round += 1
        self._waiting = set(self._members())
        record = pack(self.plan.number, self.step, RoundKey(self.term, self.round), self._ledger.work)
        return self._orders.close(self._ledger.counted(self._waiting), self.microbatch_tokens, record)

    def _reopen(self) -> list[Instruction]:
        self.phase = Phase.OPEN
        return self._orders.reopen()

    def _hold(self, problem: str) -> list[Instruction]:
        self._failed_rounds += 1
        if self._failed_rounds >= MAX_FAILED_ROUNDS:
            return self._halt(f"{MAX_FAILED_ROUNDS} rounds failed in a row, the last because {problem}", -1)
        instructions = self._reopen()
        self.phase = Phase.HELD
        peers = tuple(sorted({peer for _, peer in self._members()}))
        return [*instructions, CheckPeers(peers)]

    def _commit(self, grad_norm: float) -> list[Instruction]:
        record = self._record(grad_norm)
        for owner, done in record.work:
            self.cursors[owner] = max(self.cursors.get(owner, 0), done.cursor + 1)
        instructions: list[Instruction] = [record]
        checkpoint = self._takes_checkpoint()

        def needs_copy(span: Span) -> bool:
            return checkpoint or self._change.needs_copy(span)

        instructions += self._orders.commit(grad_norm, needs_copy, self._change.averages_after)
        self._applying.begin(self.step, self.plan, self._members(), checkpoint=checkpoint)
        self._open_ledgers.committed(self.step)
        self.step += 1
        if self.step == self.num_steps:
            self.phase = Phase.FINISHED
            self._change.forget()
            return instructions
        return instructions + self._next_plan(Committed(self.step - 1, self.round, grad_norm)) + self._open()

    def _takes_checkpoint(self) -> bool:
        """Whether members keep a checkpoint's copy after this step: not while movers still need the one before."""
        num_steps = self.step + 1
        self._checkpoint_is_due |= num_steps % self.checkpoint_every_steps == 0
        if num_steps == self.num_steps or (self._checkpoint_is_due and not self._change.holds_copies):
            self._checkpoint_is_due = False
            return True
        return False

    def _next_plan(self, done: Committed) -> list[Instruction]:
        """After a commit: the plan that was proposed, if everybody is ready; else the same without those who died."""
        may_change = not self._open_ledgers.steps
        plan, instructions = self._change.after_commit(done, self.plan, may_change=may_change)
        if plan is self.plan and may_change and self._has_lost_members:
            plan = self.plan.without(frozenset(self.lost), self.step)
        self._plan_before = self.plan
        if plan is not self.plan:
            self.plan = plan
            instructions += [NewPlan(plan), *self._change.changed(self._plan_before, plan)]
        return instructions

    def _halt(self, problem: str, stage: int) -> list[Instruction]:
        self.phase = Phase.HALTED
        return [Halt(problem, stage)]

    def _regroup(self, problem: str, stage: int) -> list[Instruction]:
        self.phase = Phase.HALTED
        return [Regroup(problem, stage)]

    @property
    def _has_lost_members(self) -> bool:
        return any(self.plan.groups_of(peer) for peer in self.lost)

    @property
    def _has_majority(self) -> bool:
        """Of this plan's members; and of the last one's, until a step shows that this one's have taken it over."""
        plans = [plan for plan in (self.plan, self._plan_before) if plan is not None]
        return all(is_majority(voters - self.lost, voters) for voters in map(voters_of, plans))

    # --- the ledger ------------------------------------------------------------------------------------------------

    def _lend_to_all(self) -> list[Instruction]:
        return [order for owner in self._owners() for order in self._lend(owner)]

    def _lend(self, owner: str) -> list[Instruction]:
        """As many microbatches as an owner may have."""
        if self.phase is Phase.PAUSED:
            return []
        return [
            Send(owner, GrantLeases(term=self.term, plan=self.plan.number, step=step, leases=leases))
            for step, leases in self._open_ledgers.lend(owner, self._share())
        ]

    def _share(self) -> int:
        """Of one owner: twice its window, so that it never waits for the next, or an equal share."""
        equal = -(-self.global_batch // len(self._owners()))
        return min(2 * self.plan.window, equal)

    def _replay(self, step: int, owned: dict[str, list[Work]]) -> list[Instruction]:
        lost = tuple(sorted(self.lost))
        return [
            Send(owner, ReplayWork(term=self.term, step=step, work=tuple(work), lost=lost))
            for owner, work in owned.items()
        ]

    def _record(self, grad_norm: float) -> Record:
        work = self._ledger.work
        digests = {stage: report.digest for (stage, _), report in self._reduced.items()}
        return Record(
            step=self.step,
            plan=self.plan.number,
            round=self.round,
            tokens=sum(report.tokens for _, report in work),
            loss_sum=math.fsum(report.loss_sum for _, report in work),
            grad_norm=grad_norm,
            work=work,
            digests=tuple(digests[stage] for stage in sorted(digests)),
        )

    # --- members ---------------------------------------------------------------------------------------------------

    @property
    def _orders(self) -> Orders:
        return Orders(self.term, self.plan, self.step, self.round, self._members())

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

    def _settle_applied(self) -> list[Instruction]:
        instructions: list[Instruction] = []
        for applied in self._applying.settled():
            instructions.append(applied)
            instructions += self._change.all_applied(
                applied.num_steps, (applied.plan, self.plan), self.lost, self.cursors
            )
        if self.phase is Phase.FINISHED and not self._applying:
            instructions.append(Finish())
        return instructions
