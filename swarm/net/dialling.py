"""Asking members to dial us, and dialling members that ask: an address says little about who can be reached there."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from hivemind.p2p import P2P

from swarm.errors import ProtocolError, SwarmError
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import answers
from swarm.net.reach import Answer, Reach, ip_of, judge, whom_to_ask
from swarm.wire.circuit import CIRCUIT
from swarm.wire.messages import DialBack, DialledBack

_DIAL_S = 15.0
_PATIENCE_S = 60.0
_MOST_AT_ONCE = 8
_MOST_WAITING = 256


@dataclass(slots=True)
class Dialler:
    """Dials members where their connections come from, and nowhere else, each by a nameless daemon of its own.

    Args:
        p2p: our daemon, which sees them.
        relays: whether we are a relay for members.
    """

    p2p: P2P
    relays: bool
    _asking: set[str] = field(default_factory=set)
    _at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_MOST_AT_ONCE))

    async def dial(self, peer: str, port: int) -> DialledBack:
        """Answer a `DialBack`.

        Raises:
            ProtocolError: too many ask at once.
        """
        if peer in self._asking or len(self._asking) >= _MOST_WAITING:
            raise ProtocolError("too many ask to be dialled", "ask again later")
        self._asking.add(peer)
        try:
            seen_at = await self._seen_at(peer)
            is_reached = False
            if seen_at:
                version = ipaddress.ip_address(seen_at).version
                async with self._at_once:
                    is_reached = await answers([f"/ip{version}/{seen_at}/tcp/{port}/p2p/{peer}"], _DIAL_S)
            return DialledBack(seen_at=seen_at, reached=is_reached, relays=self.relays)
        finally:
            self._asking.discard(peer)

    async def _seen_at(self, peer: str) -> str:
        for info in await self.p2p.list_peers():
            if info.peer_id.to_base58() == peer:
                found = [ip_of(str(each)) for each in info.addrs if CIRCUIT not in str(each)]
                return next((str(ip) for ip in found if ip is not None), "")
        return ""


async def find_reach(endpoint: Endpoint, known: Iterable[str], port: int, invite: str = "") -> Reach:
    """Whether others can dial us, as far as those say who can tell.

    Args:
        known: multiaddresses of members.
        port: that we listen on.
        invite: of a stranger; empty where we are a member.
    """
    tasks = [asyncio.create_task(_ask(endpoint, peer, port, invite)) for peer in whom_to_ask(known, endpoint.peer_id)]
    heard: list[Answer] = []
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                for task in asyncio.as_completed(tasks):
                    answer = await task
                    heard += [] if answer is None else [answer]
    finally:
        for each in tasks:
            each.cancel()
    return judge(heard)


async def _ask(endpoint: Endpoint, peer: str, port: int, invite: str) -> Answer | None:
    """One member; None where it does not answer."""
    try:
        reply, _ = await endpoint.request(peer, DialBack(port=port, invite=invite), deadline_s=_PATIENCE_S)
    except SwarmError:
        return None
    if not isinstance(reply, DialledBack):
        return None
    return Answer(peer, reply.seen_at, reply.reached, reply.relays)
