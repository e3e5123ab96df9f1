"""No daemon of ours relays for others: the libp2p daemon would, unasked, so it has to be refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hivemind.p2p import P2P, PeerID

from swarm.identity import Identity
from swarm.net.libp2p import RELAY, Libp2pTransport, start_daemon

RESERVE = b"\x02\x08\x00"
"""A circuit relay's `HopMessage` that asks for a slot, after its length."""


async def ask_for_a_slot(p2p: P2P, relay: PeerID) -> bytes:
    """The first byte of the answer; empty where there is none."""
    _, reader, writer = await p2p.call_binary_stream_handler(relay, RELAY)
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
