"""What a process sends and receives: counted, and held back where its owner allows a rate only."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from swarm.net.pace import Pace

PIECE_BYTES = 64 << 10
"""Streams take turns on a limited line by such pieces."""


@dataclass(slots=True)
class Traffic:
    """Payloads and their frames, of messages, tensors, state and all-reduces; encryption and the DHT's come on top.

    Attributes:
        up, down: the rates that its owner allows.
    """

    sent_bytes: int = 0
    received_bytes: int = 0
    up: Pace = field(default_factory=Pace)
    down: Pace = field(default_factory=Pace)

    async def send(self, num_bytes: int) -> None:
        """Wait until so many bytes may be sent, and count them."""
        self.sent_bytes += num_bytes
        await _keep_to(self.up, num_bytes)

    async def receive(self, num_bytes: int) -> None:
        """Count bytes that came, and wait until more may be read."""
        self.received_bytes += num_bytes
        await _keep_to(self.down, num_bytes)


async def _keep_to(pace: Pace, num_bytes: int) -> None:
    """Piece by piece, so that a rate that changes meanwhile counts at once."""
    while num_bytes > 0 and pace.bytes_per_s:
        wait_s = pace.wait_s(min(num_bytes, PIECE_BYTES), time.monotonic())
        if wait_s:
            await asyncio.sleep(wait_s)
        num_bytes -= PIECE_BYTES
