"""The directory over real daemons: members find one another, and nobody else reads or writes anything."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2P, PeerID
from multiaddr import Multiaddr

from swarm.admission import seal
from swarm.errors import PeerUnavailable
from swarm.identity import Identity
from swarm.net.directory import LIFETIME_S, MAX_RECORD_BYTES, Directory, _key, expiry
from swarm.net.libp2p import start_daemon
from swarm.wire.messages import LeaderRecord, PeerRecord
from tests.support.runs import Run, capabilities

RUN = Run()
FINGERPRINT = RUN.config.fingerprint


@dataclass
class Member:
    """A peer and its directory."""

    identity: Identity
    certificate: bytes
    p2p: P2P
    directory: Directory

    def record(self, expires_at_s: float | None = None, addresses: tuple[str, ...] = ()) -> PeerRecord:
        facts = capabilities(addresses=addresses)
        return PeerRecord(
            certificate=self.certificate,
            capabilities=facts,
            expires_at_s=expiry() if expires_at_s is None else expires_at_s,
        )

    def leads(self, expires_at_s: float | None = None) -> LeaderRecord:
        return LeaderRecord(
            certificate=self.certificate,
            term=1,
            addresses=(),
            plan=b"",
            expires_at_s=expiry() if expires_at_s is None else expires_at_s,
        )

    def holds(self, key: str) -> object:
        """What this node's own storage has under a key."""
        return self.directory._node.protocol.storage.get(DHTID.generate(source=key))


@dataclass
class Swarm:
    """Daemons and directories of one test."""

    folder: Path
    addresses: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    daemons: list[P2P] = field(default_factory=list)

    async def daemon(self, identity: Identity) -> P2P:
        path = self.folder / identity.peer_id
        identity.save(path)
        p2p = await start_daemon(path, "127.0.0.1", 0, self.addresses)
        self.daemons.append(p2p)
        return p2p

    async def join(self, *roles: str, certificate: bytes | None = None) -> Member:
        identity = Identity.generate()
        p2p = await self.daemon(identity)
        shown = RUN.certificate(identity, *roles) if certificate is None else certificate
        directory = await Directory.create(p2p, identity, RUN.membership, FINGERPRINT, shown, self.addresses)
        member = Member(identity, shown, p2p, directory)
        self.members.append(member)
        self.addresses = self.addresses or [str(address) for address in await p2p.get_visible_maddrs()]
        return member


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Callable[[Swarm], Awaitable[None]]], None]:
    """Runs an async test body with a `Swarm`, on uvloop, and cleans up."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Swarm]:
        swarm = Swarm(tmp_path)
        try:
            yield swarm
        finally:
            for member in swarm.members:
                await member.directory.close()
            for p2p in swarm.daemons:
                await p2p.shutdown()

    def run_body(body: Callable[[Swarm], Awaitable[None]]) -> None:
        async def main() -> None:
            async with opened() as swarm, asyncio.timeout(60):
                await body(swarm)

        uvloop.run(main())

    return run_body


def test_who_sleeps_is_not_waited_for(
    run: Callable[[Callable[[Swarm], Awaitable[None]]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby that comes back while its leader is stopped has to be there for the election."""
    monkeypatch.setattr("swarm.net.directory._CALL_S", 10_000.0)
    asleep, asked = asyncio.Event(), asyncio.Event()
    awake = DHTProtocol.rpc_ping

    @functools.wraps(awake)
    async def sleeping(*arguments: Any) -> Any:
        if asleep.is_set():
            asked.set()
            await asyncio.Event().wait()
        return await awake(*arguments)

    async def body(swarm: Swarm) -> None:
        first = await swarm.join("scheduler")
        with monkeypatch.context() as patched:
            patched.setattr(DHTProtocol, "rpc_ping", sleeping)
            sleeper = await swarm.join("host")
        asleep.set()
        swarm.addresses += [str(address) for address in await sleeper.p2p.get_visible_maddrs()]
        third = await swarm.join("host")
        assert asked.is_set()
        await third.directory.publish(third.record())
        assert third.identity.peer_id in await first.directory.read(PeerRecord, latest=False)

    run(body)


def test_members_find_one_another(run: Callable[..., None]) -> None:
    async def body(swarm: Swarm) -> None:
        scheduler, host, owner = await swarm.join("scheduler"), await swarm.join("host"), await swarm.join("owner")
        assert await owner.directory.read(PeerRecord) == {}
        announced = {member.identity.peer_id: member.record() for member in (host, owner)}
        for member in (host, owner):
            assert await member.directory.publish(announced[member.identity.peer_id])
        leader = scheduler.leads()
        assert await scheduler.directory.publish(leader)
        for member in (scheduler, host, owner):
            assert await member.directory.read(PeerRecord) == announced
            assert await member.directory.read(LeaderRecord) == {scheduler.identity.peer_id: leader}

    run(body)


def test_a_renewed_record_replaces_the_one_before(run: Callable[..., None]) -> None:
    async def body(swarm: Swarm) -> None:
        scheduler, host = await swarm.join("scheduler"), await swarm.join("host")
        assert await host.directory.publish(host.record(time.time() + 20))
        newer = host.record(time.time() + 40, addresses=("new",))
        assert await host.directory.publish(newer)
        assert await scheduler.directory.read(PeerRecord) == {host.identity.peer_id: newer}

    run(body)


@pytest.mark.parametrize("kind", ["none", "self-made", "somebody else's", "expired"])
def test_a_stranger_gets_nothing_and_leaves_nothing(run: Callable[..., None], kind: str) -> None:
    async def body(swarm: Swarm) -> None:
        scheduler, host = await swarm.join("scheduler"), await swarm.join("host")
        assert await host.directory.publish(host.record())
        identity = Identity.generate()
        certificate = {
            "none": b"",
            "self-made": RUN.certificate(identity, "scheduler", signer=identity),
            "somebody else's": host.certificate,
            "expired": RUN.certificate(identity, lives_s=-1),
        }[kind]
        p2p = await swarm.daemon(identity)
        try:
            directory = await Directory.create(p2p, identity, RUN.membership, FINGERPRINT, certificate, swarm.addresses)
        except PeerUnavailable:
            pass  # shut out at once, which is as good
        else:
            stranger = Member(identity, certificate, p2p, directory)
            swarm.members.append(stranger)
            assert await directory.read(PeerRecord) == {}
            await directory.publish(stranger.record())
        assert set(await scheduler.directory.read(PeerRecord)) == {host.identity.peer_id}
        assert set(await host.directory.read(PeerRecord)) == {host.identity.peer_id}

    run(body)


def test_a_member_that_lies_is_not_believed(run: Callable[..., None]) -> None:
    """A member whose own node checks nothing tries every lie; no other node keeps or shows a single one."""

    async def body(swarm: Swarm) -> None:
        victim, liar = await swarm.join("scheduler"), await swarm.join("host")
        me, other = liar.identity, victim.identity.peer_id
        node = liar.directory._node
        node.protocol.record_validator = None
        peers, leaders = _key(FINGERPRINT, PeerRecord), _key(FINGERPRINT, LeaderRecord)
        soon, far = expiry(), time.time() + 100 * LIFETIME_S
        honest = seal(me, liar.record(soon))
        forged = bytearray(honest)
        forged[len(forged) // 2] ^= 1
        strange = Identity.generate()
        lies: list[tuple[str, str, object, object, float]] = [
            ("forged", peers, me.peer_id, bytes(forged), soon),
            ("under another's name", peers, other, honest, soon),
            ("in another's words", peers, other, seal(me, liar.record(soon)), soon),
            ("far expiry", peers, me.peer_id, seal(me, liar.record(far)), far),
            ("never-ending", peers, me.peer_id, seal(me, liar.record(float("nan"))), soon),
            ("longer than it says", peers, me.peer_id, honest, soon + 9),
            ("another kind", peers, me.peer_id, seal(me, liar.leads(soon)), soon),
            ("a host that leads", leaders, me.peer_id, seal(me, liar.leads(soon)), soon),
            ("a stranger's", peers, strange.peer_id, seal(strange, liar.record(soon)), soon),
            ("oversized", peers, me.peer_id, seal(me, liar.record(soon, ("x" * MAX_RECORD_BYTES,))), soon),
            ("not bytes", peers, me.peer_id, "text", soon),
            ("no name", peers, 7, honest, soon),
            ("no subkey", peers, None, honest, soon),
            ("unknown key", "something else", me.peer_id, honest, soon),
            ("another run", _key("0" * 64, PeerRecord), me.peer_id, honest, soon),
        ]
        for name, key, subkey, value, expires_at_s in lies:
            await node.store(key, value, expires_at_s, subkey=subkey, exclude_self=True)
            assert victim.holds(key) is None, name
            assert await victim.directory.read(PeerRecord) == {}, name
            assert await victim.directory.read(LeaderRecord) == {}, name
        # The same way in takes the truth: the lies were refused for what they are.
        assert await node.store(peers, honest, soon, subkey=me.peer_id)
        assert victim.holds(peers) is not None
        assert set(await victim.directory.read(PeerRecord)) == {me.peer_id}

    run(body)


def test_a_record_disappears_when_it_ends(run: Callable[..., None]) -> None:
    async def body(swarm: Swarm) -> None:
        scheduler, host = await swarm.join("scheduler"), await swarm.join("host")
        assert await host.directory.publish(host.record(time.time() + 1.5))
        found = await scheduler.directory.read(PeerRecord)
        while found:
            found = await scheduler.directory.read(PeerRecord)
            await asyncio.sleep(0.1)

    run(body)


def test_nobody_to_meet_is_an_error_that_can_be_mended(run: Callable[..., None]) -> None:
    """The same daemon meets the run at the next attempt."""

    async def body(swarm: Swarm) -> None:
        identity = Identity.generate()
        p2p = await swarm.daemon(identity)
        gone = f"/ip4/127.0.0.1/tcp/9/p2p/{Identity.generate().peer_id}"
        with pytest.raises(PeerUnavailable, match="no peer of the run's directory answered"):
            await Directory.create(
                p2p, identity, RUN.membership, FINGERPRINT, RUN.certificate(identity), [gone, "/ip4/127.0.0.1", "?"]
            )
        other = await swarm.join("scheduler")
        addresses = [gone, *(str(address) for address in await other.p2p.get_visible_maddrs())]
        await p2p._client.connect(PeerID.from_base58(other.identity.peer_id), [Multiaddr(addresses[-1])])
        certificate = RUN.certificate(identity)
        directory = await Directory.create(p2p, identity, RUN.membership, FINGERPRINT, certificate, addresses)
        await directory.close()

    run(body)
