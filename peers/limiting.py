"""Keeps a running peer within its limits: it pauses and goes on by itself, and announces what it may give."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from peers.limits import Circumstances, Limits, why_not_now
from peers.limits_file import Today, load_limits
from peers.peer import Peer
from peers.surroundings import Use, on_battery
from swarm.errors import DiskRefused

_LOOK_S = 5.0
_KEEP_S = 60.0
"""A process that is killed forgets what it sent and received in so long, at most."""
_WHO = "limits"


@dataclass(slots=True)
class Limiting:
    """Of one peer.

    Args:
        folder: where its limits are.
    """

    peer: Peer
    folder: Path
    limits: Limits = field(init=False)
    today_bytes: int = 0
    _today: Today = field(init=False)
    _use: Use = field(default_factory=Use)
    _kept_at_s: float = 0.0

    def __post_init__(self) -> None:
        self._today = Today(self.folder)
        self.limits = load_limits(self.folder)
        self.peer.limit(self.limits)

    def reload(self) -> None:
        """The file is another one by now; raises ConfigError where it cannot be understood."""
        self.limits = load_limits(self.folder)
        self.peer.limit(self.limits)
        self._judge()

    async def run(self) -> None:
        """Look again and again, as long as the peer lives."""
        try:
            while True:
                self._judge()
                if time.monotonic() > self._kept_at_s + _KEEP_S:
                    await self._keep()
                await asyncio.sleep(_LOOK_S)
        finally:
            with contextlib.suppress(DiskRefused):
                self._today.keep(self.today_bytes)

    def _judge(self) -> None:
        traffic, local = self.peer.traffic, time.localtime()
        day = f"{local.tm_year}-{local.tm_yday}"
        self.today_bytes = self._today.count(day, traffic.sent_bytes + traffic.received_bytes)
        try:
            now = Circumstances(
                minute=60 * local.tm_hour + local.tm_min,
                on_battery=on_battery(),
                unused_s=self._use.unused_s(),
                today_bytes=self.today_bytes,
            )
        except OSError:
            return  # out of descriptors for a while, most likely: as before, until the machine says again
        why = why_not_now(self.limits, now)
        if why:
            self.peer.pause(_WHO, why)
        else:
            self.peer.unpause(_WHO)

    async def _keep(self) -> None:
        self._kept_at_s = time.monotonic()
        try:
            await asyncio.to_thread(self._today.keep, self.today_bytes)
        except DiskRefused as error:
            self.peer.say(str(error))
