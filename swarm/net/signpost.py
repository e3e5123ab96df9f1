"""Tells strangers where a run's announcements are gossiped: one short answer from the daemon, whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from hivemind.p2p import P2P
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo

from swarm.announcing import LENGTH_BYTES, SIGNPOST

_ANSWER_S = 5.0
_MOST_AT_ONCE = 32


@dataclass(slots=True)
class Signpost:
    """What it says: a sealed `RunAnnounced`; empty while there is nothing to say, when nobody is answered."""

    sealed: bytes = b""
    _asking: int = 0

    async def open(self, p2p: P2P) -> None:
        """Start answering at this daemon."""
        await p2p.add_binary_stream_handler(SIGNPOST, self._answer)

    async def _answer(self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.sealed and self._asking < _MOST_AT_ONCE:
            self._asking += 1
            try:
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(_ANSWER_S):
                        writer.write(len(self.sealed).to_bytes(LENGTH_BYTES, "little") + self.sealed)
                        await writer.drain()
                        await reader.read(1)  # whoever asked ends the stream: ended from here, it may lose the answer
            finally:
                self._asking -= 1
        writer.transport.abort()
