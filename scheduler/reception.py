"""Where newcomers are received: an invite becomes a certificate, a record in the directory a line of the roster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from scheduler.audit_log import AuditLog
from scheduler.membership import Roster
from scheduler.run_dir import RunDir, make_certificate
from scheduler.status import Event, Status
from swarm.admission import Membership, read_invite
from swarm.config import RunConfig
from swarm.errors import InviteExpired, RunMismatch
from swarm.identity import Identity
from swarm.net.channel import Delivery, Reply
from swarm.net.directory import Directory
from swarm.net.endpoint import Endpoint
from swarm.net.probing import answer_probes
from swarm.wire.messages import Admit, Admitted, Capabilities, PeerRecord

_LOOK_S = 0.5
"""How often the directory is read for newcomers."""
_LATE_LOOK_S = 2.0


@dataclass(slots=True)
class Reception:
    """Answers strangers with an invite, and finds the members that announce themselves."""

    run_dir: RunDir
    config: RunConfig
    admin: Identity
    log: AuditLog
    roster: Roster
    status: Status
    directory: Directory
    membership: Membership
    tell: Event
    on_newcomer: Callable[[str, Capabilities], None]

    def open(self, endpoint: Endpoint) -> None:
        """Start answering."""
        endpoint.on_request(Admit, self._on_admit)
        answer_probes(endpoint)

    async def until_complete(self) -> None:
        """Wait until the directory shows enough measured members for a plan."""
        waiting_for = ""
        while True:
            await self._look()
            if self.roster.is_complete:
                return
            if self.roster.waiting_for != waiting_for:
                waiting_for = self.roster.waiting_for
                self.tell({"event": "waiting", "for": waiting_for})
                self.status.phase = f"waiting for {waiting_for}"
            await asyncio.sleep(_LOOK_S)

    async def keep_looking(self) -> None:
        """Find those who come after the first plan, too: they stand by, and hear when the run is over."""
        while True:
            await asyncio.sleep(_LATE_LOOK_S)
            await self._look()

    async def _look(self) -> None:
        for peer, record in (await self.directory.read(PeerRecord)).items():
            self._register(peer, record)

    def _register(self, peer: str, record: PeerRecord) -> None:
        admitted = self.membership.check(record.certificate, peer, time.time()).roles
        if self.roster.is_here(peer) or not self.roster.register(peer, admitted, record.capabilities):
            return
        self.tell({"event": "registered", "peer": peer, "roles": list(record.capabilities.roles)})
        self.status.on_registered(peer, record.capabilities)
        self.on_newcomer(peer, record.capabilities)

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
        )
        return Reply(reply, self.run_dir.tokenizer_json().encode())
