"""Ordered delivery of small messages to one peer: at least once, in batches, until it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from swarm.errors import PeerUnavailable, SwarmError
from swarm.net.endpoint import Endpoint
from swarm.wire import codec
from swarm.wire.frames import MAX_HEADER_BYTES
from swarm.wire.messages import Orders, Reports

PING_S = 1.0
"""An idle outbox asks this often whether the other side lives."""
_RETRY_S = 0.2
_MAX_RETRY_S = 2.0
_BATCH = 64


class Outbox:
    """Everything we have to tell one peer.

    Whatever was sent before a stream broke and has no acknowledgement is sent again: receivers treat messages as
    statements that may come twice.

    Args:
        endpoint: sends.
        peer: receives.
        kind: `Orders` or `Reports`.
        max_failures: attempts in a row that do not reach the peer before it is given up, or one that it does not answer
            in time, or not as a member should; 0 to try for ever.
        on_lost: called once, with the reason, when the peer is given up.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        peer: str,
        kind: type[Orders] | type[Reports],
        max_failures: int = 0,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self.peer = peer
        self._kind = kind
        self._max_failures = max_failures
        self._on_lost = on_lost
        self._queue: list[bytes] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self.failures = 0
        self.lost = False
        self._task = asyncio.create_task(self._run())

    def post(self, message: object) -> None:
        """Deliver a message after all earlier ones; nothing happens once the peer is given up."""
        if self.lost:
            return
        self._queue.append(codec.encode(message))
        self._idle.clear()
        self._wake.set()

    def poke(self) -> None:
        """Ask at once whether the peer lives."""
        self._wake.set()

    async def flushed(self) -> None:
        """Wait until everything posted is acknowledged, or the peer is given up."""
        await self._idle.wait()

    async def close(self) -> None:
        """Stop, whatever is left."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def ping(self) -> bool:
        """Whether the peer answers now."""
        try:
            await self._endpoint.request(self.peer, self._kind(items=()))
        except SwarmError:
            return False
        return True

    async def _run(self) -> None:
        while True:
            if not self._queue:
                self._idle.set()
                await self._rest()
            self._wake.clear()
            batch = self._next_batch()
            try:
                await self._endpoint.request(self.peer, self._kind(items=tuple(batch)))
            except SwarmError as error:
                if await self._failed(error):
                    return
                continue
            del self._queue[: len(batch)]
            self.failures = 0

    def _next_batch(self) -> list[bytes]:
        """The first messages, as many as fit a frame with room to spare; one at least."""
        batch = self._queue[:1]
        num_bytes = len(batch[0]) if batch else 0
        for item in self._queue[1:_BATCH]:
            num_bytes += len(item)
            if num_bytes > MAX_HEADER_BYTES // 2:
                break
            batch.append(item)
        return batch

    async def _rest(self) -> None:
        """Until there is something to send, the stream breaks, or it is time to ask."""
        try:
            async with asyncio.timeout(PING_S):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _failed(self, error: SwarmError) -> bool:
        """Whether the peer is given up now."""
        self.failures += 1
        given_up = self._max_failures and (
            self.failures >= self._max_failures or not isinstance(error, PeerUnavailable)
        )
        if given_up:
            self.lost = True
            self._queue.clear()
            self._idle.set()
            if self._on_lost is not None:
                self._on_lost(error.problem)
            return True
        await asyncio.sleep(min(_MAX_RETRY_S, _RETRY_S * self.failures))
        return False


def unpack(batch: Orders | Reports) -> list[object]:
    """The messages of a batch; raises ProtocolError."""
    return [codec.decode(item) for item in batch.items]
