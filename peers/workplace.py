"""What every part of a peer works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peers.archive import Archive
from swarm.config import RunConfig
from swarm.model.layout import Layout
from swarm.net.allreduce import StrictRounds
from swarm.net.endpoint import Endpoint
from swarm.net.shelf import Shelf
from swarm.training.compute import Compute
from swarm.training.device import Device


@dataclass(frozen=True, slots=True)
class Workplace:
    """One process: its run, its machine, its way to others.

    Attributes:
        shelf: state that others may fetch.
        archive: state that outlives this process.
        keep_bytes: host memory for boundaries of counted microbatches.
        report: tells the leader.
    """

    config: RunConfig
    layout: Layout
    endpoint: Endpoint
    compute: Compute
    device: Device
    rounds: StrictRounds
    shelf: Shelf
    archive: Archive
    keep_bytes: int
    report: Callable[[object], None]

    @property
    def peer_id(self) -> str:
        """Our own."""
        return self.endpoint.peer_id
