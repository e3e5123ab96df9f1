"""A volunteer's process: let in by an invite, measured, given a stage or a window, and told when to go home."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from peers.archive import Archive
from peers.assignment import Assignment
from peers.attendance import Attendance, Attending
from peers.granting import Granting
from peers.joined import Joined
from peers.journal import Journal
from peers.keepsake import Keepsake
from peers.limits import Limits, stricter
from peers.oath import Oath
from peers.presence import Presence
from peers.probe import usable_memory_bytes
from peers.records import Records
from peers.workplace import Workplace
from swarm.admission import unseal
from swarm.config import NodeConfig
from swarm.data.shards import Shard
from swarm.errors import MemberPaused, RunError, StartedAnew, Superseded, SwarmError
from swarm.model.layout import Layout
from swarm.net.allreduce import StrictRounds
from swarm.net.channel import Delivery, Reply
from swarm.net.directory import Directory
from swarm.net.endpoint import Endpoint
from swarm.net.outbox import Outbox, unpack
from swarm.net.probing import answer_probes
from swarm.net.reach import Reach
from swarm.net.shelf import Shelf
from swarm.net.traffic import Traffic
from swarm.plan import Plan, why_not
from swarm.tasks import unless
from swarm.training.compute import Compute, Priority
from swarm.training.device import Device
from swarm.wire.messages import (
    Ack,
    Activation,
    AskRecord,
    AssignPlan,
    BoundaryGradient,
    Claim,
    FetchState,
    Heartbeat,
    HopFailed,
    Leaving,
    ListState,
    MayLeave,
    Orders,
    Regroup,
    Reports,
    Revoke,
    RunFinished,
)

_log = logging.getLogger(__name__)

_HEARTBEAT_S = 2.0
_LEAVE_S = 60.0
"""A member that wants to go home waits so long for a step without it: where nobody can replace it, none may come."""

_GO_ON = MayLeave(term=0)
"""What we tell ourselves where no leader can tell it, or none does in time."""

Say = Callable[[str], None]


def disk_bytes(node: NodeConfig) -> int:
    """For what a restart goes on from: the user's limit, or a quarter of what is free."""
    return node.disk_bytes or shutil.disk_usage(node.state_dir).free // 4


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
    _granting: Granting = field(init=False)
    _obeying: asyncio.Task[None] | None = None
    _order: object = None
    _sealed_plan: bytes = b""
    _presence: Presence = field(init=False)
    _leaves_at_s: float = math.inf
    attending: Attending = field(default_factory=Attending)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    keepsake: Keepsake = field(kw_only=True)
    traffic: Traffic = field(kw_only=True)
    reach: Reach = field(kw_only=True)
    observe: Callable[[Heartbeat], None] = field(default=lambda heartbeat: None, kw_only=True)
    """Hears what we tell our scheduler."""

    def __post_init__(self) -> None:
        folder = self.node.state_dir / f"run-{self.joined.config.fingerprint[:16]}"
        self._oath = Oath(folder / "leader.json")
        self._archive = Archive(
            Journal(folder / "journal", disk_bytes(self.node)), Records(folder / "records"), self.say
        )
        self._granting = Granting(
            self._oath,
            self.endpoint,
            self._archive,
            self._refuse_while_away,
            newest_plan=lambda: (self._plan_number, self._sealed_plan),
            is_under=lambda: self.outbox is not None,
            serve_under=self._serve_under,
            run_paused_by=lambda: self.assignment.run_paused_by,
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
            self.roles,
            self.endpoint,
            self.directory,
            self.compute,
            self.device,
            self.layout,
            self.addresses,
            self.keepsake,
            self.traffic,
            self.say,
            obeyed=lambda: self.leader,
            is_cut_off=lambda: self.is_cut_off,
            is_away=lambda: self.attending.is_away,
        )

    def _report(self, message: object) -> None:
        if self.outbox is not None:  # nothing is assigned before it is there; who rests has no more to tell
            self.outbox.post(message)

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the leader says that the run is finished, or somebody here that we leave at once.

        Raises:
            RunError: the run ended with a problem.
        """
        self._serve()
        await unless(self._take_part(), self._gone)

    async def _take_part(self) -> None:
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

    @property
    def leader(self) -> str:
        """The scheduler that we obey; empty before the first."""
        return self._oath.allegiance.leader

    @property
    def is_cut_off(self) -> bool:
        """Whether that scheduler cannot be reached."""
        return self.outbox is not None and bool(self.outbox.failures)

    def leave(self) -> bool:
        """Ask the leader to go on without us, and work until it does; False where nobody counts on us."""
        is_counted_on = self.assignment.is_needed and not self.attending.is_away
        if self.outbox is None or self.is_cut_off or not is_counted_on:
            return False
        self.say("leaving as soon as the work in hand is counted; Ctrl+C again leaves at once")
        if self.attending.leave():
            self._ask_to_go()
        return True

    def leave_at_once(self) -> None:
        """Others compute our part of the open step again."""
        self.attending.leave_at_once()
        self._gone.set()

    def pause(self, who: str, why: str) -> None:
        """Take no part until nobody wants that any more; the work in hand is brought to an end first.

        Args:
            who: wants it.
            why: in a person's words.
        """
        if not self.attending.pause(who, why):
            return
        self.say(f"pausing: {why}")
        if self.outbox is None or self.is_cut_off:
            self._orders.put_nowait(("", _GO_ON))
        else:
            self._ask_to_go()

    def unpause(self, who: str) -> None:
        """That somebody wants no pause any more; we come back as a newcomer when nobody does."""
        if self.attending.unpause(who):
            self._come_back()

    def limit(self, limits: Limits) -> None:
        """Take and announce no more than this from now on; with other memory we come back as a newcomer."""
        before, self._presence.limits = self._presence.limits, limits
        self.traffic.up.bytes_per_s = stricter(limits.up_bytes_per_s, self.node.up_bytes_per_s)
        self.traffic.down.bytes_per_s = stricter(limits.down_bytes_per_s, self.node.down_bytes_per_s)
        self._presence.changed()
        if limits.memory_bytes != before.memory_bytes and self.assignment.is_needed:
            self.pause("memory", "its limit of memory is another one")
            self.unpause("memory")

    def _ask_to_go(self) -> None:
        self._leaves_at_s = time.monotonic() + _LEAVE_S
        self._report(Leaving())

    def _come_back(self) -> None:
        self.say("back at work; waiting for a plan that needs this peer")
        self._presence.changed()

    async def _rest(self) -> None:
        """Hold nothing and ask for nothing; nobody's orders are taken until the pause is over."""
        self._leaves_at_s = math.inf
        async with self._granting.one_at_a_time:  # a leader that was about to be granted a term is refused from now on
            await self.assignment.rest()
            await self.compute.run(Priority.STEP, self.device.give_back)
            if self.outbox is not None:
                await self.outbox.close()
            self.outbox = None
        waiting = [self._orders.get_nowait() for _ in range(self._orders.qsize())]
        for sender, order in waiting:
            if isinstance(order, RunFinished):
                self._orders.put_nowait((sender, order))
        self._presence.changed()
        if self.attending.comes_back():  # somebody wanted that before we were there
            self._come_back()
        elif self.attending.is_away:
            self.say(f"paused: {self.attending.reason}")

    def _serve(self) -> None:
        self.endpoint.on_request(Claim, self._granting.on_claim, role="scheduler")
        self.endpoint.on_request(Revoke, self._on_revoke, role="scheduler")
        self.endpoint.on_request(AskRecord, self._on_ask_record, role="scheduler")
        self.endpoint.on_request(Orders, self._on_orders, role="scheduler")
        self.endpoint.on_request(HopFailed, self._on_hop_failed, role="host")
        self.endpoint.on_request(ListState, self.shelf.list)
        self.endpoint.on_request(FetchState, self.shelf.fetch)
        answer_probes(self.endpoint, self._presence.addresses_of)
        for kind in (Activation, BoundaryGradient):
            self.endpoint.on_frame(kind, self._on_tensor)

    async def _on_revoke(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Revoke)
        sealed = delivery.message.sealed
        new = self.endpoint.membership.revoke(sealed)
        await asyncio.to_thread(self.keepsake.keep_revoked, sealed)
        self.endpoint.drop(new)
        return Reply(Ack())

    @property
    def roles(self) -> tuple[str, ...]:
        """What we are here for: an owner has brought a shard."""
        return tuple(role for role in self.joined.roles if role != "owner" or self.shard is not None)

    async def _tell_people(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            heartbeat = Heartbeat(
                waiting_for=self.assignment.waiting_for,
                computed_tokens=self.assignment.computed_tokens,
                layer_seconds=self.assignment.layer_s,
            )
            self.observe(heartbeat)
            if self.outbox is None:
                continue
            asked = self.attending.is_going and self._leaves_at_s < math.inf
            if asked and (self.outbox.failures or time.monotonic() > self._leaves_at_s):
                self.say("nobody can replace this peer in time: others compute its part of the open step again")
                self._orders.put_nowait(("", _GO_ON))
            lost = " · the scheduler cannot be reached" if self.outbox.failures else ""
            self.say(self.assignment.status + lost)
            self.outbox.post(heartbeat)

    # --- whom to obey ----------------------------------------------------------------------------------------------

    def _refuse_while_away(self) -> None:
        if self.attending.is_away:
            raise MemberPaused("this member is paused", "ask again when it announces itself")

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
        if not any(isinstance(order, RunFinished) for order in orders):
            self._refuse_while_away()
            if self.outbox is None:
                # Back so soon that the leader missed our death: it must not wait for what we no longer know.
                raise StartedAnew("this peer was started anew, and granted nothing since", "claim it again")
        for order in orders:
            self._orders.put_nowait((delivery.remote_id, order))
        return Reply(Ack())

    async def _obey(self) -> None:
        while True:
            sender, order = await self._orders.get()
            is_heeded = order is _GO_ON or self._oath.allegiance.heeds(sender, getattr(order, "term", 0))
            if not is_heeded:
                self.ignored += 1
                _log.warning("ignored: a %s of %s, which does not lead", type(order).__name__, sender)
                continue
            if isinstance(order, RunFinished):
                if order.problem:
                    raise RunError(f"the run ended: {order.problem}", "ask the admin; nothing is wrong on this machine")
                self.say("the run is finished")
                return
            if isinstance(order, MayLeave):
                is_news = self.attending.is_going
                if self.attending.let_go() is Attendance.GONE:
                    self.say("left; all of its work in committed steps counts")
                    return
                if is_news:
                    await self._rest()
                continue
            self._order = order
            self._obeying = asyncio.create_task(self._carry_out(sender, order))
            await asyncio.wait([self._obeying])
            if not self._obeying.cancelled():
                self._obeying.result()

    async def _carry_out(self, sender: str, order: object) -> None:
        if not isinstance(order, AssignPlan):
            await self.assignment.handle(order, sender)
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
        if self.attending.is_going:  # another leader does not know; another plan may have found somebody else
            self._report(Leaving())

    # --- other peers -----------------------------------------------------------------------------------------------

    def _on_tensor(self, delivery: Delivery) -> None:
        self.assignment.take(delivery)

    async def _on_hop_failed(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, HopFailed)
        self.assignment.hop_failed(delivery.message, delivery.remote_id)
        return Reply(Ack())
