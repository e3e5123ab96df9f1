"""Everything that a leader has to tell its members, while it leads one term."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial

from swarm.errors import Superseded, SwarmError
from swarm.net.channel import RefusedByPeer
from swarm.net.endpoint import Endpoint
from swarm.net.outbox import Outbox
from swarm.wire import codec
from swarm.wire.messages import Orders, RunFinished

_MAX_FAILURES = 4
"""Attempts in a row to reach a member, at growing intervals, before it is declared lost."""
_FAREWELL_S = 20.0


class Posts:
    """One outbox a member.

    Args:
        endpoint: sends.
        on_lost: called with a peer that is given up, and why.
        on_superseded: called where a member obeys another scheduler.
        slack_s: what a member's answers may take longer, by what may lie before them on its line.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        on_lost: Callable[[str, str], None],
        on_superseded: Callable[[str], None],
        slack_s: Callable[[str], float],
    ) -> None:
        self._endpoint = endpoint
        self._on_lost = on_lost
        self._on_superseded = on_superseded
        self._slack_s = slack_s
        self._outboxes: dict[str, Outbox] = {}
        self._is_closing = False

    def post(self, peer: str, message: object) -> None:
        """Deliver a message after all earlier ones; nothing happens to one that was given up."""
        self._outbox(peer).post(message)

    def poke(self, peer: str) -> None:
        """Ask at once whether a member lives; strangers are not asked."""
        if peer in self._outboxes:
            self._outboxes[peer].poke()

    async def alive(self, peers: Iterable[str]) -> dict[str, bool]:
        """Which of these answer now."""
        asked = list(peers)
        return dict(zip(asked, await asyncio.gather(*(self._outbox(peer).ping() for peer in asked)), strict=True))

    def welcome_back(self, peer: str) -> None:
        """A member that was given up answers again."""
        outbox = self._outboxes.get(peer)
        if outbox is not None and outbox.lost:
            del self._outboxes[peer]

    async def send_home(self, peers: Iterable[str], farewell: RunFinished) -> bool:
        """Tell every member that the run is over; False where some did not answer in time."""
        self._is_closing = True  # from now on a peer that cannot be reached has heard it and left
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await asyncio.gather(*(self._say_goodbye(peer, farewell) for peer in {*self._outboxes, *peers}))
        except TimeoutError:
            return False
        return True

    async def _say_goodbye(self, peer: str, farewell: RunFinished) -> None:
        """Also to peers that were declared lost, wrongly perhaps, and to those that came too late for the plan."""
        outbox = self._outboxes.get(peer)
        if outbox is not None and not outbox.lost:
            outbox.post(farewell)
            await outbox.flushed()
            return
        with contextlib.suppress(SwarmError):
            await self._endpoint.request(peer, Orders(items=(codec.encode(farewell),)))

    async def close(self) -> None:
        """Say no more."""
        self._is_closing = True
        for outbox in self._outboxes.values():
            await outbox.close()

    def _outbox(self, peer: str) -> Outbox:
        outbox = self._outboxes.get(peer)
        if outbox is None:

            def on_lost(error: SwarmError) -> None:
                if self._is_closing:
                    return
                if isinstance(error, RefusedByPeer) and error.peer_code == Superseded.code:
                    self._on_superseded(error.problem)
                else:
                    self._on_lost(peer, error.problem)

            outbox = Outbox(self._endpoint, peer, Orders, _MAX_FAILURES, on_lost, partial(self._slack_s, peer))
            self._outboxes[peer] = outbox
        return outbox
