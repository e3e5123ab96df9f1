"""The way into a run, in order: a daemon, admission, an address that others reach, the directory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import partial

from hivemind.p2p import P2P

from peers.finding import Way
from peers.joined import Joined
from peers.keepsake import Keepsake
from peers.peer import Say
from swarm.admission import Certificate, Invite, Membership, unseal
from swarm.config import NodeConfig
from swarm.errors import ProtocolError
from swarm.identity import Identity
from swarm.net.admitting import admitted
from swarm.net.dialling import find_reach
from swarm.net.directory import Directory
from swarm.net.endpoint import Endpoint
from swarm.net.introduction import introduce
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.patience import until_reached
from swarm.net.reach import Reach, announced_behind, in_words, port_of
from swarm.net.relayed import reserve
from swarm.net.traffic import Traffic


@dataclass(slots=True)
class Entrance:
    """How far a peer has come. Made with `found`.

    Attributes:
        p2p, endpoint: of the daemon that runs now; a peer that can only be reached through a relay starts a second one.
        bootstrap: addresses of members.
        is_member: was admitted before, so it waits where others cannot be reached for a moment.
    """

    node: NodeConfig
    invite: Invite
    identity: Identity
    keepsake: Keepsake
    bootstrap: tuple[str, ...]
    say: Say
    is_member: bool
    p2p: P2P
    traffic: Traffic = field(default_factory=Traffic)
    membership: Membership = field(init=False)
    endpoint: Endpoint = field(init=False)

    def __post_init__(self) -> None:
        self.membership = Membership(self.invite.fingerprint, self.invite.admin_public_key)
        if kept := self.keepsake.revoked():
            with contextlib.suppress(ProtocolError):  # damaged: a scheduler hands it on again
                self.membership.revoke(kept)
        self.endpoint = self._endpoint()

    @classmethod
    async def found(cls, invite: Invite, node: NodeConfig, say: Say) -> Entrance:
        """Start the daemon where the run is; errors as `Way.daemon`."""
        identity_path = node.state_dir / "identity.key"
        identity = Identity.load_or_create(identity_path)
        say("starting the network daemon")
        keepsake = Keepsake(node.state_dir / f"run-{invite.fingerprint[:16]}")
        bootstrap = tuple(dict.fromkeys((*invite.bootstrap, *keepsake.addresses.read())))
        is_member = keepsake.admission(invite.fingerprint) is not None
        start = partial(start_daemon, identity_path, node.listen_host, node.listen_port)
        way = Way(invite, bootstrap, start, say)
        p2p = await (until_reached(way.daemon, say) if is_member else way.daemon())
        return cls(node, way.invite, identity, keepsake, way.bootstrap, say, is_member, p2p)

    async def admission(self, invite_text: str) -> Joined:
        """Become a member, or come back as one."""
        kept = self.keepsake.admission(self.invite.fingerprint)
        if kept is None:
            kept = await admitted(self.invite, invite_text, self.endpoint)
            self.keepsake.keep(kept)
        self.endpoint.become_member(kept.certificate, None)
        roles = unseal(kept.certificate, Certificate)[0].roles
        return Joined(self.invite, self.identity, kept.certificate, roles, kept.config, kept.tokenizer)

    async def reach(self, joined: Joined) -> Reach:
        """Whether others can call us; where they cannot, they will find us behind a relay."""
        ours = await self.addresses()
        reach = await find_reach(self.endpoint, self.bootstrap, port_of(ours))
        if reach.is_reached is False:
            self.say(in_words(reach))
        if reach.relay:
            # Before anybody hears of it: who is refused once does not dial for seconds.
            await reserve(self.p2p, reach.relay)
            await self.endpoint.close()
            announce = announced_behind(ours, reach.relay, self.bootstrap)
            identity_path, host = self.node.state_dir / "identity.key", self.node.listen_host
            again = partial(start_daemon, identity_path, host, port_of(ours), self.bootstrap, announce)
            self.is_member = True  # whose certificate is at hand: it waits where the relay is gone for a moment
            self.p2p = await until_reached(again, self.say)
            self.endpoint = self._endpoint()
            self.endpoint.become_member(joined.certificate, None)
        return reach

    async def addresses(self) -> tuple[str, ...]:
        """Where others find us."""
        return tuple(str(address) for address in await self.p2p.get_visible_maddrs())

    async def directory(self, joined: Joined) -> Directory:
        """Meet the others."""
        addresses = await self.addresses()

        async def meet() -> Directory:
            await introduce(self.endpoint, self.bootstrap, addresses)
            return await Directory.create(
                self.p2p, self.identity, self.membership, self.invite.fingerprint, joined.certificate, self.bootstrap
            )

        return await (until_reached(meet, self.say) if self.is_member else meet())

    def _endpoint(self) -> Endpoint:
        return Endpoint(Libp2pTransport(self.p2p, self.traffic), self.membership, self.invite.fingerprint)
