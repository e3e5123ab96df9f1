"""What every part of a scheduler works with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from scheduler.audit_log import AuditLog
from scheduler.membership import Roster
from scheduler.run_dir import RunDir
from scheduler.status import Event, Status
from swarm.config import RunConfig
from swarm.errors import DiskRefused
from swarm.identity import Identity
from swarm.model.layout import Layout
from swarm.net.directory import Directory
from swarm.net.endpoint import Endpoint
from swarm.net.shelf import Shelf

P = ParamSpec("P")
T = TypeVar("T")

_DISK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Office:
    """One process: its run, its books, its way to others.

    Attributes:
        roster: members that announced what they measured.
        shelf: a checkpoint of our own that members may load.
        tell: shows people and programs what happens.
        addresses: of ours, that peers can reach.
    """

    run_dir: RunDir
    config: RunConfig
    layout: Layout
    identity: Identity
    endpoint: Endpoint
    directory: Directory
    log: AuditLog
    roster: Roster
    status: Status
    shelf: Shelf
    tell: Event
    addresses: tuple[str, ...]

    @property
    def peer_id(self) -> str:
        """Our own."""
        return self.endpoint.peer_id

    async def on_disk(self, write: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Write off the loop, again and again while the disk refuses: a run waits for space, it does not end."""
        is_told = False
        while True:
            try:
                return await asyncio.to_thread(write, *arguments, **named)
            except DiskRefused as error:
                if not is_told:
                    self.warn(f"waiting: {error}")
                is_told = True
                await asyncio.sleep(_DISK_AGAIN_S)

    def warn(self, problem: str) -> None:
        """Tell people what is not as it should be."""
        self.tell({"event": "warning", "problem": problem})
