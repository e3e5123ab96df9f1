"""A volunteer's process: let in by an invite, measured, given a stage or a window, and told when to go home."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from peers.assignment import Assignment
from peers.cursor import CursorFile
from peers.probe import (
    LayerCosts,
    measure_downlink,
    measure_ends,
    measure_layer,
    measure_link,
    measure_links,
    usable_memory_bytes,
    within,
)
from peers.workplace import Workplace
from swarm.admission import Invite, unseal
from swarm.config import NodeConfig, RunConfig
from swarm.data.shards import Shard
from swarm.errors import PeerUnavailable, RunError
from swarm.identity import Identity
from swarm.model.blueprint import Layout
from swarm.net.allreduce import StrictRounds
from swarm.net.channel import Delivery, Reply
from swarm.net.directory import LIFETIME_S, Directory, expiry
from swarm.net.endpoint import Endpoint
from swarm.net.outbox import Outbox, unpack
from swarm.net.probing import answer_probes
from swarm.net.shelf import Shelf
from swarm.plan import Plan
from swarm.training.compute import Compute, Priority
from swarm.training.device import Device
from swarm.wire.messages import (
    Ack,
    Activation,
    AssignPlan,
    BoundaryGradient,
    Capabilities,
    FetchState,
    Heartbeat,
    HopFailed,
    LeaderRecord,
    ListState,
    Orders,
    PeerRecord,
    Reports,
    RunFinished,
)

_HEARTBEAT_S = 2.0
_LEADER_RETRY_S = 0.5
_ANNOUNCE_RETRY_S = 2.0
_LEADER_PATIENCE_S = 120.0

Say = Callable[[str], None]


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
    _orders: asyncio.Queue[object] = field(default_factory=asyncio.Queue)
    _leader: str = ""
    _term: int = 0

    def __post_init__(self) -> None:
        cursor = CursorFile(self.node.state_dir / f"cursor-{self.joined.config.fingerprint[:16]}.json")
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
            keep_bytes=keep_bytes,
            report=self._report,
        )
        self.assignment = Assignment(place, self.shard, cursor, self.say)

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
        capabilities = await self._measure()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._announce(capabilities)),
                tasks.create_task(self._tell_people()),
            ]
            try:
                self.outbox = Outbox(self.endpoint, self._leader, Reports)
                self.say("announced; waiting for a plan")
                await self._obey()
            finally:
                for task in background:
                    task.cancel()
                await self.assignment.close()
                if self.outbox is not None:
                    await self.outbox.close()

    def _serve(self) -> None:
        self.endpoint.on_request(Orders, self._on_orders, role="scheduler")
        self.endpoint.on_request(HopFailed, self._on_hop_failed, role="host")
        self.endpoint.on_request(ListState, self.shelf.list)
        self.endpoint.on_request(FetchState, self.shelf.fetch)
        answer_probes(self.endpoint)
        for kind in (Activation, BoundaryGradient):
            self.endpoint.on_frame(kind, self._on_tensor)

    async def _measure(self) -> Capabilities:
        config, compute = self.joined.config, self.compute
        costs, ends_s = LayerCosts(), 0.0
        if "host" in self._roles:
            self.say("measuring one layer of the run's model")
            costs = await compute.run(Priority.STEP, measure_layer, config, self.layout, self.device)
        if "owner" in self._roles:
            self.say("measuring both ends of the run's model")
            ends_s = await compute.run(Priority.STEP, measure_ends, config, self.layout, self.device)
        self._leader = await self._find_leader()
        self.say("measuring the way to the scheduler and to other hosts")
        to_leader = await measure_link(self.endpoint, self._leader)
        down_bytes_per_s = await measure_downlink(self.endpoint, self._leader, to_leader.round_trip_s)
        links = await measure_links(self.endpoint, await self.directory.read(PeerRecord))
        return Capabilities(
            roles=self._roles,
            addresses=self.addresses,
            memory_bytes=usable_memory_bytes(self.node, self.device),
            layer_seconds=costs.layer_seconds,
            overhead_seconds=costs.overhead_seconds,
            layer_bytes=costs.layer_bytes,
            graph_bytes=costs.graph_bytes,
            ends_seconds=ends_s,
            up_bytes_per_s=within(self.node.up_bytes_per_s, max(link.bytes_per_s for link in (to_leader, *links))),
            down_bytes_per_s=within(self.node.down_bytes_per_s, down_bytes_per_s),
            links=(to_leader, *links),
        )

    @property
    def _roles(self) -> tuple[str, ...]:
        """What we are here for: an owner has brought a shard."""
        return tuple(role for role in self.joined.roles if role != "owner" or self.shard is not None)

    async def _find_leader(self) -> str:
        deadline_s = time.monotonic() + _LEADER_PATIENCE_S
        while time.monotonic() < deadline_s:
            records = await self.directory.read(LeaderRecord)
            if records:
                return max(records, key=lambda peer: records[peer].term)
            self.say("waiting for a scheduler to lead the run")
            await asyncio.sleep(_LEADER_RETRY_S)
        raise PeerUnavailable(
            f"no scheduler announced itself within {_LEADER_PATIENCE_S:.0f} s", "ask the admin whether one runs"
        )

    async def _announce(self, capabilities: Capabilities) -> None:
        """Be found in the directory; the leader takes it from there."""
        while True:
            record = PeerRecord(certificate=self.joined.certificate, capabilities=capabilities, expires_at_s=expiry())
            stored = await self.directory.publish(record)
            await asyncio.sleep(LIFETIME_S / 3 if stored else _ANNOUNCE_RETRY_S)

    async def _tell_people(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            if self.outbox is None:
                continue
            lost = " · the scheduler cannot be reached" if self.outbox.failures else ""
            self.say(self.assignment.status + lost)
            self.outbox.post(
                Heartbeat(
                    waiting_for=self.assignment.waiting_for,
                    computed_tokens=self.assignment.computed_tokens,
                    layer_seconds=self.assignment.layer_s,
                )
            )

    # --- the leader's orders ---------------------------------------------------------------------------------------

    async def _on_orders(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Orders)
        if delivery.remote_id == self._leader:
            for order in unpack(delivery.message):
                self._orders.put_nowait(order)
        return Reply(Ack())

    async def _obey(self) -> None:
        while True:
            order = await self._orders.get()
            if not await self._heeds(order):
                continue
            if isinstance(order, RunFinished):
                if order.problem:
                    raise RunError(f"the run ended: {order.problem}", "ask the admin; nothing is wrong on this machine")
                self.say("the run is finished")
                return
            if isinstance(order, AssignPlan):
                await self._adopt(order)
            else:
                await self.assignment.handle(order)

    async def _heeds(self, order: object) -> bool:
        """Whether to carry out an order; what a leader before this one began is forgotten."""
        term: int = getattr(order, "term", 0)
        if term > self._term:
            if self._term:
                self.say("another scheduler leads now; starting over from its checkpoint")
                await self.assignment.start_over()
            self._term = term
        return term == self._term

    async def _adopt(self, order: AssignPlan) -> None:
        plan, signer = unseal(order.sealed, Plan)
        current = 0 if self.assignment.plan is None else self.assignment.plan.number
        if signer != self._leader or plan.fingerprint != self.joined.config.fingerprint or plan.number <= current:
            return
        await self.assignment.adopt(plan)

    # --- other peers -----------------------------------------------------------------------------------------------

    def _on_tensor(self, delivery: Delivery) -> None:
        self.assignment.take(delivery)

    async def _on_hop_failed(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, HopFailed)
        self.assignment.hop_failed(delivery.message, delivery.remote_id)
        return Reply(Ack())
