"""Where newcomers are received: an invite becomes a certificate, a measured member becomes part of the roster."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from scheduler.audit_log import AuditLog
from scheduler.membership import Roster
from scheduler.run_dir import RunDir, make_certificate
from scheduler.status import Event, Status
from swarm.admission import read_invite
from swarm.config import RunConfig
from swarm.errors import InviteExpired, NotAMember, RunMismatch
from swarm.identity import Identity
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.wire.messages import Ack, Admit, Admitted, Register, SpeedProbe


@dataclass(slots=True)
class Reception:
    """Answers strangers with an invite, and members that arrive."""

    run_dir: RunDir
    config: RunConfig
    admin: Identity
    log: AuditLog
    roster: Roster
    status: Status
    tell: Event
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self, endpoint: Endpoint) -> None:
        """Start answering."""
        endpoint.on_request(Admit, self._on_admit)
        endpoint.on_request(Register, self._on_register)
        endpoint.on_request(SpeedProbe, self._on_speed_probe)

    async def until_complete(self) -> None:
        """Wait until enough members are here for a plan."""
        while not self.roster.is_complete:
            self.tell({"event": "waiting", "for": self.roster.waiting_for})
            self.status.phase = f"waiting for {self.roster.waiting_for}"
            self._arrived.clear()
            await self._arrived.wait()

    async def _on_admit(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Admit)
        now_s = time.time()
        invite = read_invite(delivery.message.invite, now_s)
        if invite.fingerprint != self.config.fingerprint or invite.admin_public_key != self.config.admin_public_key:
            raise RunMismatch(
                f"the invite is for run {invite.fingerprint[:12]}, this is run {self.config.fingerprint[:12]}",
                "ask this run's admin for an invite",
            )
        if not self.log.admit(invite.nonce, delivery.remote_id, invite.uses, now_s):
            raise InviteExpired(f"the invite's {invite.uses} uses are spent", "ask the run's admin for a new invite")
        self.tell({"event": "admitted", "peer": delivery.remote_id, "roles": list(invite.roles)})
        reply = Admitted(
            certificate=make_certificate(self.config, self.admin, delivery.remote_id, invite.roles),
            run_json=self.config.to_json(),
            tokenizer_json=self.run_dir.tokenizer_json(),
        )
        return Reply(reply)

    async def _on_register(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Register)
        peer, capabilities = delivery.remote_id, delivery.message.capabilities
        if not self.roster.register(peer, delivery.roles, capabilities):
            raise NotAMember("the peer registers for a role it has no invite for", "join with the right invite")
        self.tell({"event": "registered", "peer": peer, "roles": list(capabilities.roles)})
        self.status.on_registered(peer, capabilities)
        self._arrived.set()
        return Reply(Ack())

    async def _on_speed_probe(self, delivery: Delivery) -> Reply:
        return Reply(Ack())
