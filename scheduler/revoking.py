"""Members that the admin sent away: the list in the run's folder, made known to everybody while the run goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.run_dir import RunDir
from swarm.admission import Membership
from swarm.durable import keeping
from swarm.errors import SwarmError
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.wire.messages import Ack, Revoke

_ANSWER_S = 10.0


@dataclass(slots=True)
class Revocations:
    """The list, as this scheduler knows it.

    Args:
        run_dir: has the file that `swarm revoke` writes.
        membership: of this process; refuses whoever is on the list.
    """

    run_dir: RunDir
    membership: Membership
    _sealed: bytes = b""
    _told: dict[str, bytes] = field(default_factory=dict)

    def look(self) -> frozenset[str]:
        """Read the file again where it changed; who was revoked since. Raises ProtocolError where it is damaged."""
        try:
            sealed = self.run_dir.revoked.read_bytes()
        except OSError:
            return frozenset()
        if sealed == self._sealed:
            return frozenset()
        self._sealed = sealed
        return self.membership.revoke(sealed)

    async def spread(self, endpoint: Endpoint, peers: Iterable[str]) -> None:
        """Tell everybody who has not acknowledged the newest list; who does not answer is told next time."""
        if self._sealed:
            wanted = [
                peer for peer in peers if self._told.get(peer) != self._sealed and peer not in self.membership.revoked
            ]
            await asyncio.gather(*(self._tell(endpoint, peer) for peer in wanted))

    async def _tell(self, endpoint: Endpoint, peer: str) -> None:
        sealed = self._sealed
        try:
            await endpoint.request(peer, Revoke(sealed=sealed), deadline_s=_ANSWER_S)
        except SwarmError:
            return
        self._told[peer] = sealed

    async def on_revoke(self, delivery: Delivery) -> Reply:
        """The leader tells a standby."""
        assert isinstance(delivery.message, Revoke)
        sealed = delivery.message.sealed
        if self.membership.revoke(sealed):
            await asyncio.to_thread(self._keep, sealed)
        return Reply(Ack())

    def _keep(self, sealed: bytes) -> None:
        with keeping(self.run_dir.revoked) as file:
            file.write(sealed)
