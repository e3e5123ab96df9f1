"""Being found: a member measures its machine and its line, announces both, and keeps what it announced true."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from peers.keepsake import Keepsake
from peers.limits import Limits, announced, within
from peers.line import LineWatch
from peers.probe import (
    LayerCosts,
    glance,
    measure_downlink,
    measure_ends,
    measure_layer,
    measure_link,
    measure_links,
    require_room,
    usable_memory_bytes,
)
from swarm.config import NodeConfig, RunConfig
from swarm.errors import DiskRefused, NetworkError, PeerUnavailable, SwarmError
from swarm.model.layout import Layout
from swarm.net.directory import LIFETIME_S, Directory, expiry
from swarm.net.endpoint import Endpoint
from swarm.net.introduction import ask, refuse_twin
from swarm.net.traffic import Traffic
from swarm.training.compute import Compute, Priority
from swarm.training.device import Device
from swarm.wire.messages import Announce, Capabilities, LeaderRecord, Link, PeerRecord

_LEADER_RETRY_S = 0.5
_ANNOUNCE_RETRY_S = 2.0
_LEADER_PATIENCE_S = 120.0
_LOOK_S = 10.0
"""A look at clock and line that takes longer says that the leader is away."""


@dataclass(slots=True)
class Presence:
    """One member's.

    Args:
        roles: that it is here for.
        addresses: that it listens on.
        say: shows people what happens.
        obeyed: the leader that it obeys; empty before the first.
        is_cut_off: whether that leader cannot be reached.
        is_away: whether this member takes no part now: it is announced without a role then.
        limits: that what is announced keeps to.
    """

    node: NodeConfig
    config: RunConfig
    certificate: bytes
    roles: tuple[str, ...]
    endpoint: Endpoint
    directory: Directory
    compute: Compute
    device: Device
    layout: Layout
    addresses: tuple[str, ...]
    keepsake: Keepsake
    traffic: Traffic
    say: Callable[[str], None]
    obeyed: Callable[[], str]
    is_cut_off: Callable[[], bool]
    is_away: Callable[[], bool]
    limits: Limits = field(default_factory=Limits)
    _change: asyncio.Event = field(default_factory=asyncio.Event)
    _found: str = field(default="")

    async def measure(self) -> Capabilities:
        """What this machine does with the run's own layers, and its lines.

        Raises:
            MachineLimit: a host has no memory for a single layer.
            PeerUnavailable: nobody leads.
        """
        config, compute = self.config, self.compute
        costs, ends_s = LayerCosts(), 0.0
        if "host" in self.roles:
            self.say("measuring one layer of the run's model")
            costs = await compute.run(Priority.STEP, measure_layer, config, self.layout, self.device)
            require_room(costs, usable_memory_bytes(self.node, self.device))
        if "owner" in self.roles:
            self.say("measuring both ends of the run's model")
            ends_s = await compute.run(Priority.STEP, measure_ends, config, self.layout, self.device)
        to_leader, down_bytes_per_s = await self._measure_way_to_leader()
        links = await measure_links(self.endpoint, await self.directory.read(PeerRecord), self.traffic)
        return Capabilities(
            roles=self.roles,
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

    async def _measure_way_to_leader(self) -> tuple[Link, float]:
        """The way to whoever leads, and bytes/s from there; a leader that dies meanwhile is not the last one."""
        deadline_s = time.monotonic() + _LEADER_PATIENCE_S
        while True:
            leader = self._found = await self._find_leader()
            self.say("measuring the way to the scheduler and to other hosts")
            try:
                link = await measure_link(self.endpoint, leader, self.traffic)
                return link, await measure_downlink(self.endpoint, leader, link.round_trip_s, self.traffic)
            except NetworkError:
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(_LEADER_RETRY_S)

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

    async def announce(self, capabilities: Capabilities) -> None:
        """Be found in the directory; and tell the leader, which may have been started anew and be alone in its own.

        Raises:
            StateDirectoryBusy: somebody else has our id.
        """
        round_trip_s = max((link.round_trip_s for link in capabilities.links), default=0.0)
        up = LineWatch(capabilities.up_bytes_per_s, round_trip_s)
        down = LineWatch(capabilities.down_bytes_per_s, round_trip_s)
        while True:
            self._change.clear()
            is_away = self.is_away()
            await refuse_twin(self.endpoint.peer_id, await self.addresses_of(self.endpoint.peer_id), self.addresses)
            said = announced(self.limits, capabilities)
            said = replace(said, roles=()) if is_away else said
            record = PeerRecord(certificate=self.certificate, capabilities=said, expires_at_s=expiry())
            sealed = await self.directory.publish(record)
            told = bool(sealed) and await self._tell_leader(sealed)
            await self._remember_addresses()
            if not is_away:
                before, capabilities = capabilities, await self._look(capabilities, up, down)
                if capabilities != before:
                    continue
            is_sure = told and not (up.is_doubted or down.is_doubted)
            until_s = time.monotonic() + (LIFETIME_S / 3 if is_sure else _ANNOUNCE_RETRY_S)
            while time.monotonic() < until_s and not await self._changes_within(_ANNOUNCE_RETRY_S):
                if self.is_cut_off():
                    break  # a leader that comes back has forgotten us

    def changed(self) -> None:
        """What is announced is not true any more."""
        self._change.set()

    async def _changes_within(self, patience_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._change.wait()
        return self._change.is_set()

    async def _remember_addresses(self) -> None:
        """Where to find the run again if its first scheduler is gone by then."""
        leaders = await self.directory.read(LeaderRecord)
        peers = await self.directory.read(PeerRecord)
        addresses = [address for record in leaders.values() for address in record.addresses]
        addresses += [address for record in peers.values() for address in record.capabilities.addresses]
        ours = set(self.addresses)
        try:
            await asyncio.to_thread(self.keepsake.addresses.keep, [each for each in addresses if each not in ours])
        except DiskRefused as error:
            self.say(str(error))

    async def _tell_leader(self, sealed: bytes) -> bool:
        try:
            await self.endpoint.request(self._leader, Announce(sealed=sealed))
        except SwarmError:
            return False
        return True

    async def addresses_of(self, peer: str) -> tuple[str, ...]:
        """Where the directory has a member; empty where it does not."""
        record = (await self.directory.read(PeerRecord)).get(peer)
        return () if record is None else record.capabilities.addresses

    async def _look(self, known: Capabilities, up: LineWatch, down: LineWatch) -> Capabilities:
        """Compare clocks with the leader, and glance at the line to it; what we announce of ourselves from now on."""
        try:
            async with asyncio.timeout(_LOOK_S):
                # Work does not depend on clocks; being found does.
                answer = await ask(self.endpoint, self._leader)
                if answer is not None and answer.gap.is_off:
                    self.say(f"{answer.gap.problem}: until they agree, others may not find this peer")
                there, back = await glance(self.endpoint, self._leader, self.traffic)
            must_measure = up.glance(there.duration_s, there.moved_bytes)
            must_measure |= down.glance(back.duration_s, back.moved_bytes)
            if not must_measure:
                return known
            link = await measure_link(self.endpoint, self._leader, self.traffic)
            down_bytes_per_s = await measure_downlink(self.endpoint, self._leader, link.round_trip_s, self.traffic)
        except (SwarmError, TimeoutError):
            return known
        is_new = up.measured(within(self.node.up_bytes_per_s, link.bytes_per_s))
        is_new |= down.measured(within(self.node.down_bytes_per_s, down_bytes_per_s))
        if not is_new:
            return known
        self.say(f"this line is now {_mbit(up.bytes_per_s)} up and {_mbit(down.bytes_per_s)} down")
        return replace(known, up_bytes_per_s=up.bytes_per_s, down_bytes_per_s=down.bytes_per_s)

    @property
    def _leader(self) -> str:
        """The one we obey, or that we found first."""
        return self.obeyed() or self._found


def _mbit(bytes_per_s: float) -> str:
    return f"{bytes_per_s * 8 / 1e6:.3g} Mbit/s"
