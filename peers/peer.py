"""A volunteer's process: let in by an invite, measured, given a stage or a window, and told when to go home."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from peers.allegiance import Answer, why_not
from peers.archive import Archive
from peers.assignment import Assignment
from peers.journal import Journal
from peers.keepsake import Keepsake
from peers.oath import Oath
from peers.presence import Presence
from peers.probe import (
    usable_memory_bytes,
)
from peers.records import Records
from peers.workplace import Workplace
from swarm.admission import Invite, unseal
from swarm.config import NodeConfig, RunConfig
from swarm.data.shards import Shard
from swarm.errors import DiskRefused, RunError, StartedAnew, Superseded, SwarmError
from swarm.identity import Identity
from swarm.model.blueprint import Layout
from swarm.net.allreduce import StrictRounds
from swarm.net.channel import Delivery, Reply
from swarm.net.directory import Directory
from swarm.net.endpoint import Endpoint
from swarm.net.outbox import Outbox, unpack
from swarm.net.probing import answer_probes
from swarm.net.shelf import Shelf
from swarm.plan import Plan
from swarm.training.compute import Compute
from swarm.training.device import Device
from swarm.wire.messages import (
    Ack,
    Activation,
    AskLeader,
    AskRecord,
    AssignPlan,
    BoundaryGradient,
    Claim,
    Denied,
    FetchState,
    Granted,
    Heartbeat,
    HopFailed,
    LeaderSays,
    Leaving,
    ListState,
    MayLeave,
    Orders,
    Regroup,
    Reports,
    RunFinished,
)

_log = logging.getLogger(__name__)

_HEARTBEAT_S = 2.0
_LEAVE_S = 60.0
"""A member that wants to go home waits so long for a step without it: where nobody can replace it, none may come."""
_LEADER_ANSWERS_S = 2.0
"""A scheduler that does not say within this time that it leads does not lead: its daemon and its loop are idle."""

Say = Callable[[str], None]


def _disk_bytes(node: NodeConfig) -> int:
    return node.disk_bytes or shutil.disk_usage(node.state_dir).free // 4


@dataclass(slots=True)
class Joined:
    """What admission gave us; `tokenizer` is a tokenizer.json, empty for bytes."""

    invite: Invite
    identity: Identity
    certificate: bytes
    roles: tuple[str, ...]
    config: RunConfig
    tokenizer: bytes


@dataclass(slots=True)
class Peer:
    """The composition root of a volunteer's process.

    Args:
        node: this machine's configuration.
        joined: the run, and our place in it.
        shard: our private data; None for a peer that only hosts.
        say: shows people what happens and what is waited for.
    """

    node: NodeConfig
    joined: Joined
    endpoint: Endpoint
    directory: Directory
    rounds: StrictRounds
    compute: Compute
    device: Device
    layout: Layout
    shard: Shard | None
    addresses: tuple[str, ...]
    say: Say
    shelf: Shelf = field(init=False)
    assignment: Assignment = field(init=False)
    outbox: Outbox | None = None
    ignored: int = 0
    """Orders and plans that were not carried out."""
    _orders: asyncio.Queue[tuple[str, object]] = field(default_factory=asyncio.Queue)
    _oath: Oath = field(init=False)
    _archive: Archive = field(init=False)
    _claiming: asyncio.Lock = field(default_factory=asyncio.Lock)
    _obeying: asyncio.Task[None] | None = None
    _order: object = None
    _sealed_plan: bytes = b""
    _presence: Presence = field(init=False)
    _leaves_at_s: float = math.inf
    keepsake: Keepsake = field(kw_only=True)
    observe: Callable[[Heartbeat], None] = field(default=lambda heartbeat: None, kw_only=True)
    """Hears what we tell our scheduler."""

    def __post_init__(self) -> None:
        folder = self.node.state_dir / f"run-{self.joined.config.fingerprint[:16]}"
        self._oath = Oath(folder / "leader.json")
        self._archive = Archive(
            Journal(folder / "journal", _disk_bytes(self.node)), Records(folder / "records"), self.say
        )
        keep_bytes = usable_memory_bytes(self.node, self.device) // 4
        self.shelf = Shelf(keep_bytes)
        place = Workplace(
            config=self.joined.config,
            layout=self.layout,
            endpoint=self.endpoint,
            compute=self.compute,
            device=self.device,
            rounds=self.rounds,
            shelf=self.shelf,
            archive=self._archive,
            keep_bytes=keep_bytes,
            report=self._report,
        )
        self.assignment = Assignment(place, self.shard, self.say)
        self._presence = Presence(
            self.node,
            self.joined.config,
            self.joined.certificate,
            self._roles,
            self.endpoint,
            self.directory,
            self.compute,
            self.device,
            self.layout,
            self.addresses,
            self.keepsake,
            self.say,
            obeyed=lambda: self._oath.allegiance.leader,
            is_cut_off=lambda: self.outbox is not None and bool(self.outbox.failures),
        )

    def _report(self, message: object) -> None:
        assert self.outbox is not None  # nothing is assigned before it is there
        self.outbox.post(message)

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the leader says that the run is finished.

        Raises:
            RunError: the run ended with a problem.
        """
        self._serve()
        capabilities = await self._presence.measure()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._presence.announce(capabilities)),
                tasks.create_task(self._tell_people()),
            ]
            try:
                self.say("announced; waiting for a scheduler's plan")
                await self._obey()
            finally:
                for task in background:
                    task.cancel()
                await self.assignment.close()
                await self._archive.close()
                if self.outbox is not None:
                    await self.outbox.close()

    def leave(self) -> bool:
        """Ask the leader to go on without us, and work until it does; False where nobody counts on us."""
        if self.outbox is None or self.outbox.failures or not self.assignment.is_needed:
            return False
        self.say("leaving as soon as the work in hand is counted; Ctrl+C again leaves at once")
        self._leaves_at_s = time.monotonic() + _LEAVE_S
        self.outbox.post(Leaving())
        return True

    def _serve(self) -> None:
        self.endpoint.on_request(Claim, self._on_claim, role="scheduler")
        self.endpoint.on_request(AskRecord, self._on_ask_record, role="scheduler")
        self.endpoint.on_request(Orders, self._on_orders, role="scheduler")
        self.endpoint.on_request(HopFailed, self._on_hop_failed, role="host")
        self.endpoint.on_request(ListState, self.shelf.list)
        self.endpoint.on_request(FetchState, self.shelf.fetch)
        answer_probes(self.endpoint, self._presence.addresses_of)
        for kind in (Activation, BoundaryGradient):
            self.endpoint.on_frame(kind, self._on_tensor)

    @property
    def _roles(self) -> tuple[str, ...]:
        """What we are here for: an owner has brought a shard."""
        return tuple(role for role in self.joined.roles if role != "owner" or self.shard is not None)

    async def _tell_people(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            if self.outbox is None:
                continue
            leaves = self._leaves_at_s < math.inf
            if leaves and (self.outbox.failures or time.monotonic() > self._leaves_at_s):
                self.say("nobody can replace this peer in time: others compute its part of the open step again")
                self._orders.put_nowait((self._oath.allegiance.leader, MayLeave(term=self._oath.allegiance.term)))
            lost = " · the scheduler cannot be reached" if self.outbox.failures else ""
            self.say(self.assignment.status + lost)
            heartbeat = Heartbeat(
                waiting_for=self.assignment.waiting_for,
                computed_tokens=self.assignment.computed_tokens,
                layer_seconds=self.assignment.layer_s,
            )
            self.outbox.post(heartbeat)
            self.observe(heartbeat)

    # --- whom to obey ----------------------------------------------------------------------------------------------

    async def _on_claim(self, delivery: Delivery) -> Reply:
        claim, candidate = delivery.message, delivery.remote_id
        assert isinstance(claim, Claim)
        async with self._claiming:
            allegiance = self._oath.allegiance
            knows_plan = claim.plan >= self._plan_number
            answer = allegiance.answer(candidate, claim.term, knows_plan=knows_plan)
            lives = False
            if answer is Answer.ASK:
                lives = await self._leader_leads()
                answer = allegiance.answer(candidate, claim.term, knows_plan=knows_plan, leader_lives=lives)
            if answer is Answer.DENY:
                denied = Denied(
                    term=allegiance.term, leader=allegiance.leader, leader_lives=lives, plan=self._sealed_plan
                )
                return Reply(denied)
            before = allegiance.term, allegiance.leader
            if allegiance.grant(candidate, claim.term) or self.outbox is None:
                try:
                    await asyncio.to_thread(self._oath.save)
                except DiskRefused:
                    allegiance.term, allegiance.leader = before  # what a restart would not know is not granted
                    raise
                await self._serve_under(candidate)
            return Reply(Granted(term=claim.term, holdings=await self._archive.holdings()))

    async def _leader_leads(self) -> bool:
        """Direct evidence: whether the leader we obey says that it leads."""
        allegiance = self._oath.allegiance
        try:
            async with asyncio.timeout(_LEADER_ANSWERS_S):
                reply, _ = await self.endpoint.request(allegiance.leader, AskLeader(term=allegiance.term))
        except (SwarmError, TimeoutError):
            return False
        return isinstance(reply, LeaderSays) and reply.leads

    async def _serve_under(self, leader: str) -> None:
        """From now on no order of an earlier leader is carried out; one that is half-way is brought to an end."""
        if self._obeying is not None and not self._obeying.done():
            if isinstance(self._order, AssignPlan | Regroup):  # these may wait for others that are gone
                self._obeying.cancel()
            await asyncio.gather(self._obeying, return_exceptions=True)
        if self.outbox is not None:
            await self.outbox.close()
        self.outbox = Outbox(self.endpoint, leader, Reports)
        self.say(f"scheduler {leader[-6:]} leads, term {self._oath.allegiance.term}")

    @property
    def _plan_number(self) -> int:
        return 0 if self.assignment.newest_plan is None else self.assignment.newest_plan.number

    async def _on_ask_record(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, AskRecord)
        found, record = await self._archive.record(delivery.message.step)
        return Reply(found, record)

    # --- the leader's orders ---------------------------------------------------------------------------------------

    async def _on_orders(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Orders)
        allegiance = self._oath.allegiance
        if delivery.remote_id != allegiance.leader:
            raise Superseded(
                f"this peer obeys scheduler {allegiance.leader or 'nobody'} since term {allegiance.term}",
                "follow that scheduler as a standby",
            )
        orders = unpack(delivery.message)
        if self.outbox is None and not any(isinstance(order, RunFinished) for order in orders):
            # Back so soon that the leader missed our death: it must not wait for what we no longer know.
            raise StartedAnew("this peer was started anew, and granted nothing since", "claim it again")
        for order in orders:
            self._orders.put_nowait((delivery.remote_id, order))
        return Reply(Ack())

    async def _obey(self) -> None:
        while True:
            sender, order = await self._orders.get()
            if not self._oath.allegiance.heeds(sender, getattr(order, "term", 0)):
                self.ignored += 1
                _log.warning("ignored: a %s of %s, which does not lead", type(order).__name__, sender)
                continue
            if isinstance(order, RunFinished):
                if order.problem:
                    raise RunError(f"the run ended: {order.problem}", "ask the admin; nothing is wrong on this machine")
                self.say("the run is finished")
                return
            if isinstance(order, MayLeave):
                if self._leaves_at_s < math.inf:
                    self.say("left; all of its work in committed steps counts")
                    return
                continue
            self._order = order
            self._obeying = asyncio.create_task(self._carry_out(sender, order))
            await asyncio.wait([self._obeying])
            if not self._obeying.cancelled():
                self._obeying.result()

    async def _carry_out(self, sender: str, order: object) -> None:
        if not isinstance(order, AssignPlan):
            await self.assignment.handle(order)
            return
        try:
            plan, signer = unseal(order.sealed, Plan)
            fingerprint, trunk = self.joined.config.fingerprint, self.layout.trunk
            problem = why_not(plan, signer, sender, fingerprint, self._plan_number, trunk)
        except SwarmError as error:
            problem = error.problem
        if problem:
            self.ignored += 1
            _log.warning("ignored: %s", problem)
            return
        self._sealed_plan = order.sealed
        await self.assignment.adopt(plan)
        if self._leaves_at_s < math.inf:  # another leader does not know; another plan may have found somebody else
            self._report(Leaving())

    # --- other peers -----------------------------------------------------------------------------------------------

    def _on_tensor(self, delivery: Delivery) -> None:
        self.assignment.take(delivery)

    async def _on_hop_failed(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, HopFailed)
        self.assignment.hop_failed(delivery.message, delivery.remote_id)
        return Reply(Ack())
