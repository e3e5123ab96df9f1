"""Ordered delivery of small messages to one peer: at least once, in batches, until it is given up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from swarm.errors import DeadlineExceeded, PeerUnavailable, SwarmError
from swarm.net.awake import awake_timeout
from swarm.net.deadlines import Deadline
from swarm.net.endpoint import Endpoint
from swarm.wire import codec
from swarm.wire.frames import MAX_HEADER_BYTES
from swarm.wire.messages import Orders, Reports

PING_S = 1.0
"""An idle outbox asks this often whether the other side lives."""
_RETRY_S = 0.2
_MAX_RETRY_S = 2.0
_BATCH = 64
_MOST_UNDER_WAY = 8
"""Batches without an answer yet: on a long line a message must not wait for the answer to the one before."""
_ANSWER_FLOOR_S = 4.0
"""Receivers only queue what they get, so an answer takes as long as a busy event loop and a round trip."""
_MOST_LIMITS = 3
"""So many times as long may an answer take of a peer that is not silent: on a thin line it waits behind tensors, but a
peer that speaks and does not hear is lost as well."""


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
        on_lost: called once, with the last error, when the peer is given up.
        slack_s: what an answer may take longer now, since the peer's line is thin and busy; nothing without it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        peer: str,
        kind: type[Orders] | type[Reports],
        max_failures: int = 0,
        on_lost: Callable[[SwarmError], None] | None = None,
        slack_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._endpoint = endpoint
        self.peer = peer
        self._kind = kind
        self._max_failures = max_failures
        self._on_lost = on_lost
        self._slack_s = slack_s
        self._queue: list[bytes] = []
        self._under_way: deque[tuple[asyncio.Task[None], int]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self.failures = 0
        self.lost = False
        self._answers = Deadline(floor_s=_ANSWER_FLOOR_S, first_s=2 * _ANSWER_FLOOR_S)
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
        await self._recall()

    async def ping(self) -> bool:
        """Whether the peer answers now."""
        try:
            await self._request(self._kind(items=()))
        except SwarmError:
            return False
        return True

    async def _request(self, batch: Orders | Reports) -> None:
        """Also opening a channel takes no longer than an answer may: a machine that sleeps takes no streams.

        After a failure it takes half as long: to find a peer that is gone the daemon asks others, and waits for those
        that sleep.
        """
        limit_s = (self._answers.seconds + self._slack_s()) / (2 if self.failures else 1)
        most_s = _MOST_LIMITS * limit_s
        request = asyncio.create_task(self._endpoint.request(self.peer, batch, deadline_s=most_s))
        try:
            await self._answered(request, limit_s, time.monotonic() + most_s)
        finally:
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    async def _answered(self, request: asyncio.Task[Any], limit_s: float, until_s: float) -> None:
        """Wait while the peer is not silent for longer than the limit."""
        wait_s = limit_s
        while True:
            try:
                async with awake_timeout(wait_s):
                    await asyncio.shield(request)
                    return
            except TimeoutError:
                silent_s = self._endpoint.silent_s(self.peer)
                if silent_s >= limit_s or time.monotonic() >= until_s:
                    problem = f"no answer within {limit_s:.1f} s"
                    raise DeadlineExceeded(problem, "look whether its machine sleeps") from None
                wait_s = min(limit_s - silent_s, max(0.0, until_s - time.monotonic()))

    async def _run(self) -> None:
        while True:
            while len(self._under_way) < _MOST_UNDER_WAY and (batch := self._next_batch()):
                self._send(batch)
            if self._under_way:
                if await self._first_answer():
                    return
                continue
            self._idle.set()
            if self.failures or await self._rest():  # after a failure it has waited already
                self._send([])

    def _send(self, batch: list[bytes]) -> None:
        """Requests of one channel arrive in the order in which they were begun."""
        request = asyncio.create_task(self._timed(self._kind(items=tuple(batch))))
        self._under_way.append((request, len(batch)))

    async def _timed(self, batch: Orders | Reports) -> None:
        asked_s = time.monotonic()
        await self._request(batch)
        self._answers.observe(time.monotonic() - asked_s)

    async def _first_answer(self) -> bool:
        """Wait for the oldest request, or for more to send; whether the peer is given up now."""
        request, num_messages = self._under_way[0]
        woken = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({request, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()  # also where the outbox is closed meanwhile
        self._wake.clear()
        if not request.done():
            return False
        try:
            request.result()
        except SwarmError as error:
            await self._recall()
            return await self._failed(error)
        self._under_way.popleft()
        del self._queue[:num_messages]
        self.failures = 0
        return False

    async def _recall(self) -> None:
        """What has no acknowledgement is sent again, in order."""
        requests = [request for request, _ in self._under_way]
        self._under_way.clear()
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

    def _next_batch(self) -> list[bytes]:
        """The first messages that are not under way, as many as fit a frame with room to spare; one if there is any."""
        sent = sum(num_messages for _, num_messages in self._under_way)
        batch = self._queue[sent : sent + 1]
        num_bytes = len(batch[0]) if batch else 0
        for item in self._queue[sent + 1 : sent + _BATCH]:
            num_bytes += len(item)
            if num_bytes > MAX_HEADER_BYTES // 2:
                break
            batch.append(item)
        return batch

    async def _rest(self) -> bool:
        """Until there is something to send, or it is time to ask whether the peer lives: whether it is that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PING_S):
                await self._wake.wait()
        self._wake.clear()
        return not self._queue

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
                self._on_lost(error)
            return True
        await asyncio.sleep(min(_MAX_RETRY_S, _RETRY_S * self.failures))
        return False


def unpack(batch: Orders | Reports) -> list[object]:
    """The messages of a batch; raises ProtocolError."""
    return [codec.decode(item) for item in batch.items]
