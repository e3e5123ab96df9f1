"""A relay of ours carries what members send to a member with a slot, and nothing else; no other daemon relays.

The libp2p daemon would, for everybody and unasked, so it has to be refused.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

from swarm.errors import NotReachable
from swarm.identity import Identity
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.relay import Relay, read_message, write_message
from swarm.net.relayed import reserve
from swarm.wire.circuit import CIRCUIT, HOP, HopMessage, Kind, Verdict, decode_hop, encode_hop

RESERVE = b"\x02\x08\x00"
"""A circuit relay's `HopMessage` that asks for a slot, after its length."""


async def ask_for_a_slot(p2p: P2P, relay: PeerID) -> bytes:
    """The first byte of the answer; empty where there is none."""
    _, reader, writer = await p2p.call_binary_stream_handler(relay, HOP)
    try:
        writer.write(RESERVE)
        async with asyncio.timeout(30):
            return await reader.read(1)
    except OSError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_stranger_gets_no_slot_from_us_but_would_from_a_daemon_as_it_comes(is_ours: bool, tmp_path: Path) -> None:
    async def body() -> None:
        Identity.generate().save(tmp_path / "key")
        if is_ours:
            relay = await start_daemon(tmp_path / "key", "127.0.0.1", 0, [])
        else:
            relay = await P2P.create(auto_nat=False, nat_port_map=False, use_relay=False)
        stranger = await P2P.create(
            initial_peers=[str(each) for each in await relay.get_visible_maddrs()],
            auto_nat=False,
            nat_port_map=False,
            use_relay=False,
        )
        try:
            for _ in range(3):
                assert (await ask_for_a_slot(stranger, relay.peer_id) == b"") is is_ours
        finally:
            for each in (stranger, relay):
                await Libp2pTransport(each).close()

    asyncio.run(body())


ECHO = "/test/echo"
PIECE = bytes(range(256)) * 4096
"""More than the daemon's own relay would carry."""
LIMIT_S = 60.0


async def echo(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()


async def verdict_on_a_call(p2p: P2P, relay: PeerID, target: PeerID) -> Verdict:
    """What the relay says to somebody who wants to call the target."""
    _, reader, writer = await p2p.call_binary_stream_handler(relay, HOP)
    try:
        await write_message(writer, encode_hop(HopMessage(kind=Kind.CONNECT, peer=target.to_bytes())))
        return decode_hop(await read_message(reader)).verdict
    finally:
        writer.transport.abort()


async def addresses(p2p: P2P) -> list[str]:
    return [str(each) for each in await p2p.get_visible_maddrs()]


def test_a_member_is_called_through_the_relay_and_a_stranger_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {}
    for name in ("public", "hidden", "stranger", "caller"):
        identity = Identity.generate()
        identity.save(tmp_path / name)
        ids[name] = identity.peer_id

    async def start(name: str, known: list[str], **options: object) -> P2P:
        return await start_daemon(tmp_path / name, "127.0.0.1", 0, known, **options)  # type: ignore[arg-type]

    async def body() -> None:
        relay, members = Relay(), set[str]()
        public = await start("public", [], relay=relay)
        known = await addresses(public)
        hidden = await start("hidden", known, announce=[f"{known[0]}/{CIRCUIT}"])
        started = [public, hidden]
        try:
            with pytest.raises(NotReachable):
                await reserve(hidden, ids["public"])  # nobody opened the relay yet
            relay.open(public, members.__contains__)
            with pytest.raises(NotReachable):
                await reserve(hidden, ids["public"])  # a stranger
            assert not relay.slots.holders(0.0)

            members.add(ids["hidden"])
            await hidden.add_binary_stream_handler(ECHO, echo)
            await reserve(hidden, ids["public"])
            stranger = await start("stranger", known)
            started.append(stranger)
            with pytest.raises((EOFError, OSError)):
                await verdict_on_a_call(stranger, public.peer_id, hidden.peer_id)

            members.add(ids["caller"])  # now: its daemon looks for others by itself, and whom it failed to dial waits
            caller = await start("caller", known)
            started.append(caller)
            info, reader, writer = await caller.call_binary_stream_handler(hidden.peer_id, ECHO)
            assert CIRCUIT in str(info.addr)
            writer.write(PIECE)
            assert await reader.readexactly(len(PIECE)) == PIECE
            assert relay.carried_bytes > 2 * len(PIECE)

            relay.keep({ids["caller"]})  # the hidden one is no member any more
            with pytest.raises((EOFError, OSError)):
                await reader.readexactly(1)
            assert await verdict_on_a_call(caller, public.peer_id, hidden.peer_id) is Verdict.NO_RESERVATION

            monkeypatch.setattr("swarm.net.slots.SLOT_S", 0.0)
            await reserve(hidden, ids["public"])
            assert await verdict_on_a_call(caller, public.peer_id, hidden.peer_id) is Verdict.NO_RESERVATION
        finally:
            for each in reversed(started):
                await Libp2pTransport(each).close()

    asyncio.run(asyncio.wait_for(body(), 2 * LIMIT_S))
