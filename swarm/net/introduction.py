"""What a member asks others before it takes part: what their clocks say, and whether its id is in use elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

from swarm.errors import MembershipRevoked, StateDirectoryBusy, SwarmError
from swarm.net.clocks import Gap, check_gaps, gap
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import answers
from swarm.wire.messages import Introduce, Known

_MOST_ASKED = 8
_PATIENCE_S = 5.0
_ENDING_S = 2.0
"""The daemon of a process that was killed ends within so long."""
_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """One member's.

    Attributes:
        addresses: where the directory has our id.
    """

    gap: Gap
    addresses: tuple[str, ...]


async def introduce(endpoint: Endpoint, bootstrap: Iterable[str], ours: Iterable[str]) -> None:
    """Ask members until one's clock agrees with ours; nothing happens where none of them answers.

    Args:
        bootstrap: multiaddresses of members.
        ours: multiaddresses that we listen on.

    Raises:
        ClockOff: our clock is not that of anybody who answered.
        StateDirectoryBusy: somebody else has our id.
        MembershipRevoked: as `ask`.
    """
    peers = dict.fromkeys(address.rpartition("/p2p/")[2] for address in bootstrap)
    asked = [peer for peer in peers if peer != endpoint.peer_id][:_MOST_ASKED]
    tasks = [asyncio.create_task(ask(endpoint, peer)) for peer in asked]
    heard: list[Answer] = []
    try:
        with contextlib.suppress(TimeoutError):  # those who have answered by then will do
            async with asyncio.timeout(_PATIENCE_S):
                for task in asyncio.as_completed(tasks):
                    answer = await task
                    heard += [] if answer is None else [answer]
                    if answer is not None and not answer.gap.is_off:
                        break
    finally:
        for each in tasks:
            each.cancel()
    check_gaps([answer.gap for answer in heard])
    for answer in heard:
        await refuse_twin(endpoint.peer_id, answer.addresses, ours)


async def ask(endpoint: Endpoint, peer: str) -> Answer | None:
    """One member; None where it does not answer.

    Raises:
        MembershipRevoked: it shows that the admin sent us away.
    """
    asked_at_s = time.time()
    try:
        reply, _ = await endpoint.request(peer, Introduce(), deadline_s=_PATIENCE_S)
    except MembershipRevoked:
        raise
    except SwarmError:
        return None
    if not isinstance(reply, Known):
        return None
    return Answer(gap(peer, asked_at_s, reply.time_s, time.time()), reply.addresses)


async def refuse_twin(peer_id: str, known: Iterable[str], ours: Iterable[str]) -> None:
    """Two machines with one key: others could not tell them apart, and frames would reach one or the other.

    Args:
        known: addresses that the directory has for our id.
        ours: that we listen on.

    Raises:
        StateDirectoryBusy: somebody with our key is at one of the others.
    """
    others = sorted(set(known) - set(ours))
    deadline_s = time.monotonic() + _ENDING_S
    while others and await answers(others):
        if time.monotonic() > deadline_s:
            raise StateDirectoryBusy(
                f"the identity {peer_id} is in use at {', '.join(others)}, and here at {', '.join(ours)}",
                "stop one of the two, or give this one another --state-dir",
            )
        await asyncio.sleep(_RETRY_S)
