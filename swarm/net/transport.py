"""The seam between the protocol and what moves bytes: libp2p in production, memory in tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

CONTROL = "/swarm/control"
TENSORS = "/swarm/tensors"
STATE = "/swarm/state"
LANES = (CONTROL, TENSORS, STATE)
"""Streams of their own: what is said waits neither for tensors nor for a joiner's copy, nor for a limited rate."""


class ByteStream(Protocol):
    """A reliable, ordered byte stream to one authenticated peer."""

    @property
    def remote_id(self) -> str:
        """Peer id of the other side, as the transport authenticated it."""

    async def read_exactly(self, num_bytes: int) -> bytes:
        """The next bytes; raises PeerUnavailable when the stream ends before."""

    def write(self, *parts: bytes | memoryview) -> None:
        """Queue bytes in order; they are not copied where the transport can avoid it."""

    async def drain(self) -> None:
        """Wait until the queue is short; raises PeerUnavailable when the stream is gone."""

    def abort(self) -> None:
        """Drop the stream in both directions at once."""


StreamHandler = Callable[[ByteStream], Awaitable[None]]


class Transport(Protocol):
    """Opens and accepts streams, by peer id and lane name."""

    @property
    def peer_id(self) -> str:
        """Our own."""

    async def open(self, peer_id: str, lane: str) -> ByteStream:
        """A new stream; raises PeerUnavailable."""

    async def serve(self, lane: str, handler: StreamHandler) -> None:
        """Run `handler` for every stream that others open on this lane."""

    async def close(self) -> None:
        """Stop serving and drop all streams."""
