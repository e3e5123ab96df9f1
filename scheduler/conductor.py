"""The shell of the step leader: carries out its instructions, and brings it the members' reports."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.audit_log import AuditLog
from scheduler.collect import collect
from scheduler.instructions import (
    Applied,
    CheckPeers,
    Finish,
    Halt,
    Instruction,
    Lost,
    NewPlan,
    PlanChangeOff,
    Record,
    Send,
)
from scheduler.membership import Roster
from scheduler.plan_changes import PlanChanges
from scheduler.restart import Restart
from scheduler.run_dir import RunDir
from scheduler.status import Event, Status, plan_json
from scheduler.step import StepLeader
from scheduler.transition import first_transfer
from swarm.admission import seal
from swarm.config import RunConfig
from swarm.errors import RunError, StageWithoutHost, SwarmError
from swarm.identity import Identity
from swarm.model.blueprint import Layout
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.net.outbox import Outbox, unpack
from swarm.plan import Plan
from swarm.wire import codec
from swarm.wire.messages import (
    Ack,
    AssignPlan,
    CannotContinue,
    Capabilities,
    GroupLoaded,
    GroupNotLoaded,
    Heartbeat,
    MicrobatchDone,
    Orders,
    PrepareGroup,
    Reports,
    RoundFailed,
    RoundReduced,
    RunFinished,
    StageReady,
    StepApplied,
    StepClosed,
    SuspectPeer,
)

_MAX_FAILURES = 4
"""Attempts in a row to reach a member, at growing intervals, before it is declared lost."""
_FAREWELL_S = 20.0


@dataclass(slots=True)
class Conductor:
    """Leads the members of a plan from their first layer to the last step."""

    run_dir: RunDir
    config: RunConfig
    layout: Layout
    identity: Identity
    endpoint: Endpoint
    log: AuditLog
    roster: Roster
    status: Status
    tell: Event
    term: int
    restart: Restart
    changes: PlanChanges
    sealed_plan: bytes = b""
    _plan: Plan | None = None
    _leader: StepLeader | None = None
    _outboxes: dict[str, Outbox] = field(default_factory=dict)
    _events: asyncio.Queue[Callable[[], list[Instruction]]] = field(default_factory=asyncio.Queue)
    _ready: dict[tuple[int, str], str] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _collecting: set[asyncio.Task[None]] = field(default_factory=set)
    _halted: Halt | None = None
    _finished: bool = False
    _going_home: bool = False

    # --- life ------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start taking reports."""
        self.endpoint.on_request(Reports, self._on_reports)

    async def assign(self, plan: Plan) -> None:
        """Send out the first plan, and wait until every member of it holds its layers.

        Raises:
            StageWithoutHost: the last member of a group left while building.
            RunError: replicas built different weights.
        """
        self._plan = plan
        if plan.first_step:
            self._have_it_loaded(plan)
        else:
            self._send_plan(plan)
        self.status.phase = "members build their layers"
        while missing := self._still_building():
            self.tell({"event": "building", "missing": missing})
            self._changed.clear()
            await self._changed.wait()
        assert self._plan is not None
        if self._plan.first_step:
            self._send_plan(self._plan)
        for stage, peers in enumerate(self._plan.groups):
            if len({self._ready[stage, peer] for peer in peers}) > 1:
                raise RunError(
                    f"the replicas of stage {stage} built different weights from one seed",
                    "run the same torch version and processor kind in a stage",
                )

    def _have_it_loaded(self, plan: Plan) -> None:
        """A run that goes on: everybody fetches the checkpoint from us."""
        for group, peers in enumerate(plan.groups):
            first_layer, last_layer = plan.span_of(group)
            for peer in peers:
                order = PrepareGroup(
                    term=self.term,
                    transfer=self._first_transfer,
                    num_steps=plan.first_step,
                    first_layer=first_layer,
                    last_layer=last_layer,
                    next_cursor=self.restart.cursors.get(peer, 0),
                    donors=(self.identity.peer_id,),
                )
                self._outbox(peer).post(order)

    @property
    def _first_transfer(self) -> int:
        """Of a checkpoint that members load before the first plan."""
        return first_transfer(self.term)

    def _still_building(self) -> int:
        assert self._plan is not None
        for stage, peers in enumerate(self._plan.groups):
            if not peers:
                raise StageWithoutHost(f"stage {stage}: its last member left before the run began", "start again")
        expected = {(stage, peer) for stage, peers in enumerate(self._plan.groups) for peer in peers}
        return len(expected - set(self._ready))

    async def lead(self) -> None:
        """Every step, until the last is applied and its checkpoint kept.

        Raises:
            StageWithoutHost: the last replica of a stage is gone.
            RunError: the run cannot go on for another reason.
            CheckpointError: the last checkpoint could not be written.
        """
        assert self._plan is not None
        self._leader = StepLeader(
            plan=self._plan,
            term=self.term,
            global_batch=self.config.batch.global_batch_microbatches,
            microbatch_tokens=self.config.microbatch_tokens,
            next_step=self.restart.next_step,
            num_steps=self.config.schedule.steps,
            checkpoint_every_steps=self.config.schedule.checkpoint_every_steps,
            cursors=dict(self.restart.cursors),
        )
        self.changes.begin(self._plan)
        self.changes.wake = lambda: self._events.put_nowait(list)
        self.status.started_at_s = time.time()
        self._events.put_nowait(self._leader.start)
        solving = asyncio.create_task(self.changes.keep_solving())
        try:
            await self._lead_to_the_end(self._leader)
        finally:
            solving.cancel()
        if self._halted is not None:
            kind = StageWithoutHost if self._halted.stage >= 0 else RunError
            where = f"stage {self._halted.stage}: " if self._halted.stage >= 0 else ""
            raise kind(where + self._halted.problem, "see the audit log; the last checkpoint is whole")
        await asyncio.gather(*self._collecting)

    async def _lead_to_the_end(self, leader: StepLeader) -> None:
        while not (self._finished or self._halted):
            event = await self._events.get()
            await self._carry_out(event())
            self.status.phase = leader.phase.value
            self.status.waiting_for = leader.waiting_for
            self._replan()

    async def send_home(self, problem: str) -> None:
        """Tell every member that the run is over, and why if it should not be."""
        self._going_home = True  # from now on a peer that cannot be reached has heard it and left
        farewell = RunFinished(term=self.term, problem=problem)
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await asyncio.gather(*(self._say_goodbye(peer, farewell) for peer in self._heard_of))
        except TimeoutError:
            self.tell({"event": "warning", "problem": "some members did not answer the news that the run is over"})
        for outbox in self._outboxes.values():
            await outbox.close()

    async def _say_goodbye(self, peer: str, farewell: RunFinished) -> None:
        """Also to peers that were declared lost, wrongly perhaps, and to those that came too late for the plan."""
        outbox = self._outboxes.get(peer)
        if outbox is not None and not outbox.lost:
            outbox.post(farewell)
            await outbox.flushed()
            return
        with contextlib.suppress(SwarmError):
            await self.endpoint.request(peer, Orders(items=(codec.encode(farewell),)))

    @property
    def _heard_of(self) -> set[str]:
        return set(self._outboxes) | set(self.roster.hosts) | set(self.roster.owners)

    # --- instructions ----------------------------------------------------------------------------------------------

    async def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Send(peer, message):
                    self._outbox(peer).post(message)
                case NewPlan(plan):
                    self._send_plan(plan)
                    self.changes.holds(plan)
                case Record():
                    await self._record(instruction)
                case CheckPeers(peers):
                    await self._check(peers)
                case Lost(peer, problem):
                    self._on_lost(peer, problem)
                case Applied(checkpoint=True):
                    self._start_collecting(instruction)
                case PlanChangeOff(problem, culprit):
                    self.changes.called_off(problem, culprit)
                case Halt():
                    self._halted = instruction
                case Finish():
                    self._finished = True

    def _send_plan(self, plan: Plan) -> None:
        self._plan = plan
        self.sealed_plan = seal(self.identity, plan)
        self.log.append_plan(plan.number, plan.first_step, plan.predicted_tokens_per_s)
        self.status.plan = plan
        for peer in sorted({peer for group in plan.groups for peer in group} | self.roster.members.keys()):
            self._outbox(peer).post(AssignPlan(term=self.term, sealed=self.sealed_plan))
        self.tell({"event": "plan"} | plan_json(plan))

    async def _record(self, record: Record) -> None:
        await asyncio.to_thread(self.log.append_step, record, self.term, time.time())
        self.tell(self.status.on_step(record))
        assert self._plan is not None
        self.changes.committed(self._plan, [done.route for _, done in record.work])

    async def _check(self, peers: tuple[str, ...]) -> None:
        """Whoever does not answer now is lost; then the leader may go on."""
        assert self._leader is not None
        alive = await asyncio.gather(*(self._outbox(peer).ping() for peer in peers))
        for peer, lives in zip(peers, alive, strict=True):
            if not lives:
                self._on_lost(peer, "it did not answer after a failed round")
        self._events.put_nowait(self._leader.checked)

    def _start_collecting(self, applied: Applied) -> None:
        assert self._leader is not None
        cursors = dict(self._leader.cursors)  # of now: the next step may be committed while this one is fetched
        task = asyncio.create_task(self._collect(applied.plan, applied.num_steps, cursors))
        self._collecting.add(task)
        if applied.num_steps < self.config.schedule.steps:  # the last one's error ends the run, so `lead` awaits it
            task.add_done_callback(self._collecting.discard)

    async def _collect(self, plan: Plan, num_steps: int, cursors: dict[str, int]) -> None:
        assert self._leader is not None
        try:
            folder = await collect(
                self.endpoint,
                self.config,
                self.layout,
                plan,
                frozenset(self._leader.lost),
                num_steps,
                cursors,
                self.run_dir.tokenizer_of(self.config).to_json(),
                self.run_dir.checkpoints,
            )
        except SwarmError as error:
            self.tell({"event": "warning", "problem": str(error)})
            if num_steps == self.config.schedule.steps:
                raise
            return
        self.status.checkpoint = str(folder)
        self.tell({"event": "checkpoint", "step": num_steps, "folder": str(folder)})

    # --- another plan ----------------------------------------------------------------------------------------------

    def newcomer(self, peer: str, facts: Capabilities) -> None:
        """A member came after the first plan: it hears of the plan, and may get a place in the next one."""
        if not self.sealed_plan or self._going_home:
            return
        self._outbox(peer).post(AssignPlan(term=self.term, sealed=self.sealed_plan))
        self.changes.joined(peer, facts)

    def _replan(self) -> None:
        """Propose what was decided, when the leader can take it and no checkpoint is on its way."""
        assert self._leader is not None
        if self._leader.is_changing or self._collecting:
            return
        target = self.changes.target()
        if target is None:
            return
        if self._leader.propose(target):
            self.changes.proposed()
        else:
            self.changes.called_off("too many of its peers were lost")

    # --- members ---------------------------------------------------------------------------------------------------

    def _outbox(self, peer: str) -> Outbox:
        outbox = self._outboxes.get(peer)
        if outbox is None:

            def on_lost(problem: str) -> None:
                self._on_lost(peer, problem)

            outbox = Outbox(self.endpoint, peer, Orders, _MAX_FAILURES, on_lost)
            self._outboxes[peer] = outbox
        return outbox

    def _on_lost(self, peer: str, problem: str) -> None:
        leader = self._leader
        if self._going_home or (leader is not None and peer in leader.lost):
            return
        self.roster.lose(peer)
        step = 0 if leader is None else leader.step
        self.log.append_loss(peer, step, problem)
        self.tell({"event": "lost", "peer": peer, "problem": problem, "step": step})
        self.status.on_lost(peer)
        self.changes.lost(peer)
        if leader is not None:
            self._events.put_nowait(lambda: leader.peer_lost(peer))
        elif self._plan is not None and self._plan.groups_of(peer):
            self._ready = {key: digest for key, digest in self._ready.items() if key[1] != peer}
            self._plan = self._plan.without(frozenset({peer}), self._plan.first_step)
            if not self._plan.first_step:
                self._send_plan(self._plan)
        self._changed.set()

    async def _on_reports(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Reports)
        for report in unpack(delivery.message):
            self._take_report(delivery.remote_id, report)
        return Reply(Ack())

    def _take_report(self, peer: str, report: object) -> None:
        if isinstance(report, Heartbeat):
            self.status.on_heartbeat(peer, report)
            self.changes.observed(peer, report.layer_seconds)
        elif isinstance(report, StageReady):
            if self._plan is None or report.plan != self._plan.number:
                return  # said to a scheduler before us
            self._ready[report.stage, peer] = report.digest
            self._changed.set()
        elif isinstance(report, GroupLoaded) and self._leader is None:
            self._on_checkpoint_loaded(peer, report)
        elif isinstance(report, GroupNotLoaded) and self._leader is None:
            self._on_lost(peer, f"it cannot load the checkpoint: {report.problem}")
        elif isinstance(report, SuspectPeer):
            self.tell({"event": "suspect", "peer": report.peer, "by": peer, "problem": report.problem})
            if report.peer in self._outboxes:
                self._outboxes[report.peer].poke()
        elif self._leader is not None:
            leader = self._leader
            self._events.put_nowait(lambda: self._lead_on(leader, peer, report))

    def _on_checkpoint_loaded(self, peer: str, report: GroupLoaded) -> None:
        if self._plan is None or report.transfer != self._first_transfer or report.num_steps != self._plan.first_step:
            return
        group = self._plan.group_of((report.first_layer, report.last_layer))
        if group is not None:
            self._ready[group, peer] = report.digest
            self._changed.set()

    def _lead_on(self, leader: StepLeader, peer: str, report: object) -> list[Instruction]:
        match report:
            case MicrobatchDone():
                return leader.done(peer, report)
            case StepClosed():
                return leader.closed(peer, report)
            case RoundReduced():
                return leader.reduced(peer, report)
            case RoundFailed():
                self.tell({"event": "round_failed", "peer": peer, "problem": report.problem})
                return leader.failed(peer, report)
            case CannotContinue():
                return leader.cannot_continue(peer, report)
            case GroupLoaded():
                return leader.group_loaded(peer, report)
            case GroupNotLoaded():
                return leader.group_not_loaded(peer, report)
            case StepApplied():
                self.log.note_weights(report.step + 1, report.stage, peer, report.digest)
                return leader.applied(peer, report)
        return []
