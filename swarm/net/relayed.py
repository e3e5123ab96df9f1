"""Being called through a relay: taking a slot there, and keeping it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from hivemind.p2p import P2P, PeerID

from swarm.errors import NotReachable, SwarmError
from swarm.net.endpoint import Endpoint
from swarm.net.relay import BROKEN, read_message, write_message
from swarm.wire.circuit import HOP, HopMessage, Kind, Verdict, decode_hop, encode_hop

_ANSWER_S = 20.0
_RENEW_S = 10.0


async def reserve(p2p: P2P, relay: str) -> None:
    """Take, or renew, a slot; members may then call us through that relay.

    Args:
        relay: its peer id; it has seen our certificate.

    Raises:
        NotReachable: it does not answer, does not relay for us, or has no place left.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, reader, writer = await p2p.call_binary_stream_handler(PeerID.from_base58(relay), HOP)
            try:
                await write_message(writer, encode_hop(HopMessage(kind=Kind.RESERVE)))
                answer = decode_hop(await read_message(reader))
            finally:
                writer.transport.abort()
    except BROKEN as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotReachable(f"the relay {relay} does not answer ({words})", "ask the admin whether it runs") from None
    if answer.kind is not Kind.STATUS or answer.verdict is not Verdict.OK:
        words = answer.verdict.name.lower().replace("_", " ")
        raise NotReachable(f"the relay {relay} has no slot for this peer ({words})", "ask the run's admin")


@contextlib.asynccontextmanager
async def kept_slot(p2p: P2P, endpoint: Endpoint, relay: str, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Renew our slot as long as this lasts; nothing where `relay` is empty.

    Args:
        endpoint: that shows our certificate to the relay, also to one that was started anew.
        relay: its peer id.
        say: shows people when others cannot reach us any more, and when they can again.
    """
    keeping = asyncio.create_task(_keep_slot(p2p, endpoint, relay, say)) if relay else None
    try:
        yield
    finally:
        if keeping is not None:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def _keep_slot(p2p: P2P, endpoint: Endpoint, relay: str, say: Callable[[str], None]) -> None:
    is_kept = True
    while True:
        is_kept = await _renewed(p2p, endpoint, relay, is_kept, say)
        await asyncio.sleep(_RENEW_S)


async def _renewed(p2p: P2P, endpoint: Endpoint, relay: str, was_kept: bool, say: Callable[[str], None]) -> bool:
    """Whether we have the slot; people are told when that changes."""
    try:
        await endpoint.channel(relay)
        await reserve(p2p, relay)
    except SwarmError as error:
        if was_kept:
            say(str(error))
        return False
    if not was_kept:
        say(f"reached through the relay of {relay} again")
    return True
