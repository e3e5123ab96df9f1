"""Where newcomers are received: an invite becomes a certificate, a record in the directory a line of the roster."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from scheduler.office import Office
from scheduler.run_dir import make_certificate
from swarm.admission import Invite, Membership, read_invite
from swarm.errors import AdmissionError, InviteExpired, NotAMember, ProtocolError, RunMismatch
from swarm.identity import Identity
from swarm.net.channel import Delivery, Reply
from swarm.net.dialling import Dialler
from swarm.net.directory import LIFETIME_S
from swarm.net.endpoint import Endpoint
from swarm.net.probing import answer_probes
from swarm.net.relay import Relay
from swarm.wire.messages import Ack, Admit, Admitted, Announce, DialBack, PeerRecord


@dataclass(slots=True)
class Reception:
    """Answers strangers with an invite, and finds the members that announce themselves."""

    office: Office
    admin: Identity | None
    membership: Membership
    dialler: Dialler
    relay: Relay | None
    announced: dict[str, PeerRecord] = field(default_factory=dict)
    _seen_at_s: dict[str, float] = field(default_factory=dict)
    _relayed: frozenset[str] = frozenset()

    def open(self, endpoint: Endpoint) -> None:
        """Start answering."""
        endpoint.on_request(Admit, self._on_admit)
        endpoint.on_request(Announce, self._on_announce)
        endpoint.on_request(DialBack, self._on_dial_back)
        answer_probes(endpoint, self._addresses_of)
        if self.relay is not None:
            self.relay.open(self.dialler.p2p, self._is_here)

    async def look(self) -> None:
        """Read the directory."""
        records = await self.office.directory.read(PeerRecord) | self._still_valid()
        for peer, record in records.items():
            admitted = self.membership.check(record.certificate, peer, time.time()).roles
            is_new = peer not in self.office.roster.announced
            if not record.capabilities.roles:
                self.office.status.on_state(peer, "paused")
                if not is_new:
                    self.office.tell({"event": "paused", "peer": peer})
            if self.office.roster.announce(peer, admitted, record.capabilities) and is_new:
                self.office.tell({"event": "registered", "peer": peer, "roles": list(record.capabilities.roles)})
                self.office.status.on_registered(peer, record.capabilities)
        self.office.roster.forget_absent(records.keys())
        if self.relay is not None:
            self._look_at(self.relay)

    def _is_here(self, peer: str) -> bool:
        """Whether a certificate was seen of late: on a stream to us, or in a record. A member may be starting anew."""
        return peer in self.office.endpoint.members or peer in self._seen_at_s

    def _look_at(self, relay: Relay) -> None:
        now_s = time.monotonic()
        here = self.office.endpoint.members | self.office.roster.announced.keys()
        self._seen_at_s = {peer: at_s for peer, at_s in self._seen_at_s.items() if now_s - at_s < LIFETIME_S}
        self._seen_at_s |= dict.fromkeys(here, now_s)
        relay.keep(self._seen_at_s)
        holders = relay.slots.holders(time.time())
        for peer in sorted(holders - self._relayed):
            self.office.tell({"event": "relayed", "peer": peer})
        self._relayed = holders
        self.office.status.relay = {
            "peers": sorted(holders),
            "num_carried": relay.num_carried,
            "carried_bytes": relay.carried_bytes,
        }

    async def _addresses_of(self, peer: str) -> tuple[str, ...]:
        facts = self.office.roster.announced.get(peer)
        return () if facts is None else facts.addresses

    def _still_valid(self) -> dict[str, PeerRecord]:
        now_s = time.time()
        self.announced = {peer: record for peer, record in self.announced.items() if record.expires_at_s > now_s}
        for peer in self.membership.revoked:
            self.announced.pop(peer, None)
        return self.announced

    async def _on_announce(self, delivery: Delivery) -> Reply:
        """The member also gets to know our DHT node, which may be new."""
        assert isinstance(delivery.message, Announce)
        peer = delivery.remote_id
        record = self.office.directory.open(PeerRecord, peer, delivery.message.sealed)
        if record is None:
            raise ProtocolError(
                f"{peer} announced itself with a record that is not valid now", "set both machines' clocks"
            )
        self.announced[peer] = record
        await self.office.directory.greet(peer)
        return Reply(Ack())

    async def _on_admit(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Admit)
        if self.admin is None:
            raise AdmissionError(
                "this scheduler has no admin's key, so it admits nobody", "join at the run's other scheduler"
            )
        now_s = time.time()
        invite = self._invite(delivery.message.invite, now_s)
        if delivery.remote_id in self.membership.revoked:
            raise NotAMember("the admin revoked the membership of this peer", "ask the run's admin")
        if not self.office.log.admit(invite.nonce, delivery.remote_id, invite.uses, now_s):
            raise InviteExpired(f"the invite's {invite.uses} uses are spent", "ask the run's admin for a new invite")
        self.office.tell({"event": "admitted", "peer": delivery.remote_id, "roles": list(invite.roles)})
        reply = Admitted(
            certificate=make_certificate(self.office.config, self.admin, delivery.remote_id, invite.roles),
            run_json=self.office.config.to_json(),
        )
        return Reply(reply, self.office.run_dir.tokenizer_json().encode())

    async def _on_dial_back(self, delivery: Delivery) -> Reply:
        """A stranger that may join is answered, too; its invite is not used up."""
        assert isinstance(delivery.message, DialBack)
        if not delivery.roles:
            self._invite(delivery.message.invite, time.time())
        return Reply(await self.dialler.dial(delivery.remote_id, delivery.message.port))

    def _invite(self, text: str, now_s: float) -> Invite:
        invite = read_invite(text, now_s)
        if (
            invite.fingerprint != self.office.config.fingerprint
            or invite.admin_public_key != self.office.config.admin_public_key
        ):
            raise RunMismatch(
                f"the invite is for run {invite.fingerprint[:12]}, this is run {self.office.config.fingerprint[:12]}",
                "ask this run's admin for an invite",
            )
        return invite
