"""The scheduler's process: admits, plans, carries out what the step leader decides, keeps the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from scheduler.audit_log import AuditLog
from scheduler.collect import collect
from scheduler.membership import Roster
from scheduler.planner.balanced import balanced
from scheduler.planner.problem import HostFacts, Placement, Planner, Problem
from scheduler.run_dir import RunDir, make_certificate
from scheduler.status import Status
from scheduler.step import (
    Applied,
    CheckPeers,
    Finish,
    Halt,
    Instruction,
    NewPlan,
    Record,
    Send,
    StepLeader,
)
from swarm.admission import Membership, read_invite, seal
from swarm.config import RunConfig
from swarm.errors import InviteExpired, NotAMember, RunError, RunMismatch, StageWithoutHost, SwarmError
from swarm.identity import Identity
from swarm.model.blueprint import Layout, layout
from swarm.net.channel import Delivery, Reply
from swarm.net.directory import LIFETIME_S, Directory, expiry
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.outbox import Outbox, unpack
from swarm.plan import Plan, StagePlan
from swarm.wire import compression
from swarm.wire.messages import (
    Ack,
    Admit,
    Admitted,
    AssignPlan,
    Heartbeat,
    LeaderRecord,
    MicrobatchDone,
    Orders,
    Register,
    Reports,
    RoundFailed,
    RoundReduced,
    RunFinished,
    SpeedProbe,
    StageReady,
    StepApplied,
    StepClosed,
    SuspectPeer,
)
from swarm.wire.payloads import PayloadRules

_MAX_FAILURES = 4
"""Attempts in a row to reach a member, at growing intervals, before it is declared lost."""
_FAREWELL_S = 20.0

Event = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Node:
    """The composition root of the admin's process.

    Args:
        num_stages: the admin's wish; 0 leaves it to the planner.
        tell: shows people and programs what happens; a mapping with the key `event`.
    """

    run_dir: RunDir
    config: RunConfig
    admin: Identity
    identity: Identity
    endpoint: Endpoint
    directory: Directory
    log: AuditLog
    layout: Layout
    roster: Roster
    certificate: bytes
    addresses: tuple[str, ...]
    num_stages: int
    tell: Event
    planner: Planner = balanced
    term: int = 1
    leader: StepLeader | None = None
    status: Status = field(init=False)
    _plan: Plan | None = None
    _sealed_plan: bytes = b""
    _outboxes: dict[str, Outbox] = field(default_factory=dict)
    _events: asyncio.Queue[Callable[[], list[Instruction]]] = field(default_factory=asyncio.Queue)
    _ready: dict[tuple[int, str], str] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _cursors: dict[str, int] = field(default_factory=dict)
    _collecting: set[asyncio.Task[None]] = field(default_factory=set)
    _halted: Halt | None = None
    _finished: bool = False

    def __post_init__(self) -> None:
        self.status = Status(self.run_dir.status, self.config)

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """From the first member to the last step.

        Raises:
            ModelTooLarge: the members' memory does not hold the model.
            StageWithoutHost: the last replica of a stage is gone.
            RunError: the run cannot go on for another reason.
        """
        self._serve()
        background = [asyncio.create_task(self._announce()), asyncio.create_task(self._keep_status())]
        problem = ""
        try:
            await self._gather()
            await self._assign()
            await self._lead()
        except SwarmError as error:
            problem = error.problem
            raise
        finally:
            await self._send_home(problem)
            for task in background:
                task.cancel()
            self.status.save()

    def _serve(self) -> None:
        self.endpoint.on_request(Admit, self._on_admit)
        self.endpoint.on_request(Register, self._on_register)
        self.endpoint.on_request(Reports, self._on_reports)
        self.endpoint.on_request(SpeedProbe, self._on_speed_probe)

    async def _announce(self) -> None:
        while True:
            record = LeaderRecord(
                certificate=self.certificate,
                term=self.term,
                addresses=self.addresses,
                plan=self._sealed_plan,
                expires_at_s=expiry(),
            )
            await self.directory.publish(record)
            await asyncio.sleep(LIFETIME_S / 3)

    async def _keep_status(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await asyncio.to_thread(self.status.save)

    async def _gather(self) -> None:
        """Wait until enough members are here."""
        while not self.roster.is_complete:
            self.tell({"event": "waiting", "for": self.roster.waiting_for})
            self.status.phase = f"waiting for {self.roster.waiting_for}"
            self._changed.clear()
            await self._changed.wait()

    async def _assign(self) -> None:
        """Plan, and wait until every member of the plan holds its layers."""
        placement = await asyncio.to_thread(self.planner, self._problem())
        self._send_plan(self._first_plan(placement))
        assert self._plan is not None
        self.status.phase = "members build their layers"
        while True:
            expected = {(stage, peer) for stage, peers in enumerate(self._plan.groups) for peer in peers}
            missing = expected - set(self._ready)
            if not missing:
                break
            if any(not group for group in self._plan.groups) or self._halted:
                raise StageWithoutHost("a peer left before the run began, and its stage is empty", "start again")
            self.tell({"event": "building", "missing": len(missing)})
            self._changed.clear()
            await self._changed.wait()
        for stage, peers in enumerate(self._plan.groups):
            if len({self._ready[stage, peer] for peer in peers}) > 1:
                raise RunError(
                    f"the replicas of stage {stage} built different weights from one seed",
                    "run the same torch version and processor kind in a stage",
                )

    async def _lead(self) -> None:
        assert self._plan is not None
        self.leader = StepLeader(
            plan=self._plan,
            term=self.term,
            global_batch=self.config.batch.global_batch_microbatches,
            microbatch_tokens=self.config.microbatch_tokens,
            next_step=0,
            num_steps=self.config.schedule.steps,
            checkpoint_every_steps=self.config.schedule.checkpoint_every_steps,
        )
        self.status.started_at_s = time.time()
        self._events.put_nowait(self.leader.start)
        while not (self._finished or self._halted):
            self.status.phase = self.leader.phase.value
            event = await self._events.get()
            await self._carry_out(event())
        if self._halted is not None:
            kind = StageWithoutHost if self._halted.stage >= 0 else RunError
            where = f"stage {self._halted.stage}: " if self._halted.stage >= 0 else ""
            raise kind(where + self._halted.problem, "see the audit log; the last checkpoint is whole")
        await asyncio.gather(*self._collecting)
        self.status.phase = "finished"

    async def _send_home(self, problem: str) -> None:
        for outbox in self._outboxes.values():
            outbox.post(RunFinished(term=self.term, problem=problem))
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await asyncio.gather(*(outbox.flushed() for outbox in self._outboxes.values()))
        except TimeoutError:
            self.tell({"event": "warning", "problem": "some members did not hear that the run is over"})
        for outbox in self._outboxes.values():
            await outbox.close()

    # --- planning --------------------------------------------------------------------------------------------------

    def _problem(self) -> Problem:
        trunk = self.layout.trunk
        batch, data = self.config.batch, self.config.data
        values = batch.microbatch_sequences * data.context_tokens * self.layout.hidden_size
        hosts = tuple(
            HostFacts(peer, facts.memory_bytes, facts.layer_seconds, facts.bytes_per_s)
            for peer, facts in self.roster.hosts.items()
        )
        return Problem(
            hosts=hosts,
            owners=tuple(self.roster.owners),
            trunk=trunk,
            layer_parameters=max(self.layout.layer_parameters[trunk.first : trunk.last]),
            boundary_bytes=compression.encoded_bytes(self.config.numerics.boundary_codec, values),
            global_batch=batch.global_batch_microbatches,
            microbatch_tokens=self.config.microbatch_tokens,
            num_stages=self.num_stages,
        )

    def _first_plan(self, placement: Placement) -> Plan:
        stages = tuple(
            StagePlan(first_layer=span.first, last_layer=span.last, replicas=replicas, routing_weights=weights)
            for span, replicas, weights in zip(placement.spans, placement.replicas, placement.weights, strict=True)
        )
        return Plan(
            number=1,
            fingerprint=self.config.fingerprint,
            first_step=0,
            stages=stages,
            owners=tuple(self.roster.owners),
            standby=(),
            window=placement.window,
            predicted_tokens_per_s=placement.tokens_per_s,
        )

    def _send_plan(self, plan: Plan) -> None:
        self._plan = plan
        self._sealed_plan = seal(self.identity, plan)
        self.log.append_plan(plan.number, plan.first_step, plan.predicted_tokens_per_s)
        self.status.plan = plan
        for group in plan.groups:
            for peer in group:
                self._outbox(peer).post(AssignPlan(term=self.term, sealed=self._sealed_plan))
        self.tell(
            {
                "event": "plan",
                "number": plan.number,
                "stages": [
                    {"layers": [stage.first_layer, stage.last_layer], "replicas": list(stage.replicas)}
                    for stage in plan.stages
                ],
                "owners": list(plan.owners),
                "window": plan.window,
                "predicted_tokens_per_s": plan.predicted_tokens_per_s,
            }
        )

    # --- the leader's instructions ---------------------------------------------------------------------------------

    async def _carry_out(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Send(peer, message):
                    self._outbox(peer).post(message)
                case NewPlan(plan):
                    self._send_plan(plan)
                case Record():
                    await self._record(instruction)
                case CheckPeers(peers):
                    await self._check(peers)
                case Applied():
                    self._on_applied(instruction)
                case Halt():
                    self._halted = instruction
                case Finish():
                    self._finished = True

    async def _record(self, record: Record) -> None:
        await asyncio.to_thread(self.log.append_step, record, self.term, time.time())
        for owner, done in record.work:
            self._cursors[owner] = max(self._cursors.get(owner, 0), done.cursor + 1)
        self.tell(self.status.on_step(record))

    async def _check(self, peers: tuple[str, ...]) -> None:
        """Whoever does not answer now is lost; then the leader may go on."""
        assert self.leader is not None
        alive = await asyncio.gather(*(self._outbox(peer).ping() for peer in peers))
        for peer, lives in zip(peers, alive, strict=True):
            if not lives:
                self._on_lost(peer, "it did not answer after a failed round")
        self._events.put_nowait(self.leader.checked)

    def _on_applied(self, applied: Applied) -> None:
        if not applied.snapshot:
            return
        task = asyncio.create_task(self._collect(applied.num_steps))
        self._collecting.add(task)
        task.add_done_callback(self._collecting.discard)

    async def _collect(self, num_steps: int) -> None:
        assert self.leader is not None
        try:
            folder = await collect(
                self.endpoint,
                self.config,
                self.leader.plan,
                frozenset(self.leader.lost),
                num_steps,
                dict(self._cursors),
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

    def _outbox(self, peer: str) -> Outbox:
        outbox = self._outboxes.get(peer)
        if outbox is None:
            outbox = Outbox(self.endpoint, peer, Orders, _MAX_FAILURES, lambda problem: self._on_lost(peer, problem))
            self._outboxes[peer] = outbox
        return outbox

    def _on_lost(self, peer: str, problem: str) -> None:
        self.roster.lose(peer)
        step = 0 if self.leader is None else self.leader.step
        if self.leader is not None and peer in self.leader.lost:
            return
        self.log.append_loss(peer, step, problem)
        self.tell({"event": "lost", "peer": peer, "problem": problem, "step": step})
        self.status.on_lost(peer)
        leader = self.leader
        if leader is not None:
            self._events.put_nowait(lambda: leader.peer_lost(peer))
        elif self._plan is not None and self._plan.groups_of(peer):
            self._send_plan(self._plan.without(frozenset({peer}), 0))
            self._ready = {key: digest for key, digest in self._ready.items() if key[1] != peer}
        self._changed.set()

    # --- members ---------------------------------------------------------------------------------------------------

    async def _on_admit(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Admit)
        now_s = time.time()
        invite = read_invite(delivery.message.invite, now_s)
        if invite.fingerprint != self.config.fingerprint or invite.admin_public_key != self.config.admin_public_key:
            raise RunMismatch(
                f"the invite is for run {invite.fingerprint[:12]}, this is run {self.config.fingerprint[:12]}",
                "ask this run's admin for an invite",
            )
        if not self.log.admit(invite.nonce, delivery.remote_id, invite.uses, now_s):
            raise InviteExpired(f"the invite's {invite.uses} uses are spent", "ask the run's admin for a new invite")
        self.tell({"event": "admitted", "peer": delivery.remote_id, "roles": list(invite.roles)})
        certificate = make_certificate(self.config, self.admin, delivery.remote_id, invite.roles)
        reply = Admitted(
            certificate=certificate,
            run_json=self.config.to_json(),
            tokenizer_json=self.run_dir.tokenizer_json(),
        )
        return Reply(reply)

    async def _on_register(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Register)
        peer, capabilities = delivery.remote_id, delivery.message.capabilities
        if not self.roster.register(peer, delivery.roles, capabilities):
            raise NotAMember("the peer registers for a role it has no invite for", "join with the right invite")
        self.tell({"event": "registered", "peer": peer, "roles": list(capabilities.roles)})
        self.status.on_registered(peer, capabilities)
        self._changed.set()
        return Reply(Ack())

    async def _on_speed_probe(self, delivery: Delivery) -> Reply:
        return Reply(Ack())

    async def _on_reports(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Reports)
        for report in unpack(delivery.message):
            self._take_report(delivery.remote_id, report)
        return Reply(Ack())

    def _take_report(self, peer: str, report: object) -> None:
        if isinstance(report, Heartbeat):
            self.status.on_heartbeat(peer, report)
        elif isinstance(report, StageReady):
            self._ready[report.stage, peer] = report.digest
            self._changed.set()
        elif isinstance(report, SuspectPeer):
            if report.peer in self._outboxes:
                self._outboxes[report.peer].poke()
        elif self.leader is not None:
            if isinstance(report, StepApplied):
                self.log.note_weights(report.step + 1, report.stage, peer, report.digest)
            self._events.put_nowait(lambda: self._lead_on(peer, report))

    def _lead_on(self, peer: str, report: object) -> list[Instruction]:
        assert self.leader is not None
        match report:
            case MicrobatchDone():
                return self.leader.done(peer, report)
            case StepClosed():
                return self.leader.closed(peer, report)
            case RoundReduced():
                return self.leader.reduced(peer, report)
            case RoundFailed():
                self.tell({"event": "round_failed", "peer": peer, "problem": report.problem})
                return self.leader.failed(peer, report)
            case StepApplied():
                return self.leader.applied(peer, report)
        return []


@asynccontextmanager
async def opened(
    run_dir: RunDir, host: str, port: int, min_hosts: int, min_owners: int, num_stages: int, tell: Event
) -> AsyncIterator[Node]:
    """Start the scheduler of a run; errors as `Node.run`, and those of the configuration and the network."""
    config = run_dir.load_config()
    admin = run_dir.load_admin(config)
    model_layout = await asyncio.to_thread(layout, config)
    identity = Identity.load_or_create(run_dir.scheduler_key)
    log = AuditLog(run_dir.audit, config.fingerprint, config.to_json())
    if log.num_steps:
        raise RunError(
            f"{run_dir.root} has {log.num_steps} committed steps already", "make a new run with `swarm init`"
        )
    p2p = await start_daemon(run_dir.scheduler_key, host, port, ())
    membership = Membership(config.fingerprint, config.admin_public_key)
    certificate = make_certificate(config, admin, identity.peer_id, ("scheduler",))
    shape = (config.batch.microbatch_sequences, config.data.context_tokens, model_layout.hidden_size)
    rules = PayloadRules(shape, config.numerics.boundary_codec)
    endpoint = Endpoint(Libp2pTransport(p2p), membership, config.fingerprint, certificate, rules)
    try:
        directory = await Directory.create(p2p, identity, membership, config.fingerprint, certificate, ())
        addresses = tuple(str(address) for address in await p2p.get_visible_maddrs())
        node = Node(
            run_dir,
            config,
            admin,
            identity,
            endpoint,
            directory,
            log,
            model_layout,
            Roster(min_hosts, min_owners),
            certificate,
            addresses,
            num_stages,
            tell,
        )
        await endpoint.start()
        yield node
        await directory.close()
    finally:
        await endpoint.close()
        log.close()
