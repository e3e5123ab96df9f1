"""Connected endpoints for tests, over memory or over real daemons."""

from __future__ import annotations

import time
from pathlib import Path

from swarm.admission import Certificate, Membership, seal
from swarm.identity import Identity
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.memory import MemoryNetwork
from swarm.net.transport import Transport
from swarm.wire.payloads import PayloadRules

FINGERPRINT = "f" * 64
SHAPE = (2, 8, 16)


class Net:
    """Makes connected endpoints of either kind."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.admin = Identity.generate()
        self.memory = MemoryNetwork(seed=7, max_delay_s=0.002)
        self.addresses: list[str] = []
        self.endpoints: list[Endpoint] = []

    async def endpoint(self, roles: tuple[str, ...] = ("host",), fingerprint: str = FINGERPRINT) -> Endpoint:
        identity = Identity.generate()
        transport = await self.transport(identity)
        certificate = b""
        if roles:
            body = Certificate(
                fingerprint=FINGERPRINT, peer_id=identity.peer_id, roles=roles, expires_at_s=time.time() + 99
            )
            certificate = seal(self.admin, body)
        membership = Membership(FINGERPRINT, self.admin.public_key)
        endpoint = Endpoint(transport, membership, fingerprint, certificate, PayloadRules(SHAPE, ("fp32",)))
        await endpoint.start()
        self.endpoints.append(endpoint)
        return endpoint

    async def transport(self, identity: Identity) -> Transport:
        if self.kind == "memory":
            return self.memory.join(identity.peer_id)
        path = self.folder / identity.peer_id
        identity.save(path)
        p2p = await start_daemon(path, "127.0.0.1", 0, self.addresses)
        self.addresses = [str(address) for address in await p2p.get_visible_maddrs()]
        return Libp2pTransport(p2p)
