"""A network in memory: the same seam as libp2p, with delays, arbitrary chunks and streams that break.

Bytes of one stream stay in order, as on TCP; different streams overtake one another freely. All randomness comes from
one seed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field

from swarm.errors import PeerUnavailable
from swarm.net.transport import ByteStream, StreamHandler


@dataclass(slots=True)
class MemoryNetwork:
    """Connects `MemoryTransport`s.

    Args:
        seed: of delays, chunk sizes and breaks.
        max_delay_s: every chunk is delayed by up to this.
        break_probability: of each write to break its stream, after a part of its bytes.
    """

    seed: int = 0
    max_delay_s: float = 0.0
    break_probability: float = 0.0
    broken: int = 0
    random: random.Random = field(init=False)
    peers: dict[str, MemoryTransport] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311 - a test network wants to be repeatable

    def join(self, peer_id: str) -> MemoryTransport:
        """A transport for a new peer."""
        transport = MemoryTransport(self, peer_id)
        self.peers[peer_id] = transport
        return transport


class MemoryTransport:
    """One peer of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, peer_id: str) -> None:
        self._network = network
        self._peer_id = peer_id
        self._handlers: dict[str, StreamHandler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: list[_Stream] = []

    @property
    def peer_id(self) -> str:
        """Our own."""
        return self._peer_id

    async def open(self, peer_id: str, lane: str) -> ByteStream:
        """See `Transport.open`."""
        await asyncio.sleep(self._network.random.random() * self._network.max_delay_s)
        remote = self._network.peers.get(peer_id)
        handler = remote._handlers.get(lane) if remote is not None else None
        if remote is None or handler is None:
            raise PeerUnavailable(f"{peer_id} cannot be reached", "check that it runs")
        near, far = _Stream(self._network, peer_id), _Stream(self._network, self._peer_id)
        near.other, far.other = far, near
        self._streams.append(near)
        remote._streams.append(far)
        task = asyncio.ensure_future(handler(far))
        remote._tasks.add(task)
        task.add_done_callback(remote._tasks.discard)
        return near

    async def serve(self, lane: str, handler: StreamHandler) -> None:
        """See `Transport.serve`."""
        self._handlers[lane] = handler

    async def close(self) -> None:
        """See `Transport.close`."""
        self._network.peers.pop(self._peer_id, None)
        for stream in self._streams:
            stream.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Stream:
    """One side of a stream: what the other side wrote arrives in `_inbox` when its time has come."""

    def __init__(self, network: MemoryNetwork, remote_id: str) -> None:
        self._network = network
        self._remote_id = remote_id
        self._inbox = asyncio.StreamReader()
        self._arrives_s = 0.0
        self._on_the_way: deque[bytes] = deque()  # event loops do not order timers of the same millisecond
        self._aborted = False
        self.other: _Stream

    @property
    def remote_id(self) -> str:
        return self._remote_id

    async def read_exactly(self, num_bytes: int) -> bytes:
        try:
            return await self._inbox.readexactly(num_bytes)
        except asyncio.IncompleteReadError:
            raise PeerUnavailable(f"the stream to {self._remote_id} ended", "nothing to do") from None

    def write(self, *parts: bytes | memoryview) -> None:
        if self._aborted:
            return
        data = b"".join(parts)
        dice = self._network.random
        breaks = dice.random() < self._network.break_probability
        end = dice.randrange(len(data)) if breaks else len(data)
        position = 0
        while position < end:
            size = dice.randint(1, max(1, end - position))
            self._deliver(data[position : position + size])
            position += size
        if breaks:
            self._network.broken += 1
            self.abort()

    def _deliver(self, chunk: bytes) -> None:
        loop = asyncio.get_running_loop()
        delay_s = self._network.random.random() * self._network.max_delay_s
        self._arrives_s = max(self._arrives_s, loop.time() + delay_s)
        self.other._on_the_way.append(chunk)
        loop.call_at(self._arrives_s, self.other._receive)

    def _receive(self) -> None:
        if not self._on_the_way:
            return
        chunk = self._on_the_way.popleft()
        if not self._aborted and not self._inbox.at_eof():
            self._inbox.feed_data(chunk)

    async def drain(self) -> None:
        if self._aborted:
            raise PeerUnavailable(f"the stream to {self._remote_id} is gone", "nothing to do")
        await asyncio.sleep(0)

    def abort(self) -> None:
        if self._aborted:
            return
        self._aborted = True
        self._inbox.feed_eof()
        loop = asyncio.get_running_loop()
        loop.call_at(max(self._arrives_s, loop.time()), self.other._end)

    def _end(self) -> None:
        while self._on_the_way and not self._aborted:
            self._receive()
        self.abort()
