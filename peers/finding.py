"""Starting the daemon where the run is: at the known addresses, or at those that its scheduler says on the LAN."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hivemind.p2p import P2P

from peers.peer import Say
from swarm.admission import Invite, Membership
from swarm.errors import PeerUnavailable
from swarm.net import lan


@dataclass(slots=True)
class Way:
    """Into a run.

    Args:
        invite: names the run and its admin.
        bootstrap: addresses that were good once; the LAN's come before them when they are not.
        start: starts a daemon that connects to some of them first.
        say: tells people where the run was found.
    """

    invite: Invite
    bootstrap: tuple[str, ...]
    start: Callable[[tuple[str, ...]], Awaitable[P2P]]
    say: Say

    async def daemon(self) -> P2P:
        """A daemon that is connected to the run; raises PeerUnavailable where neither leads there."""
        try:
            return await self.start(self.bootstrap)
        except PeerUnavailable:
            membership = Membership(self.invite.fingerprint, self.invite.admin_public_key)
            places = await asyncio.to_thread(lan.found, membership, self.invite.fingerprint)
            heard = tuple(dict.fromkeys(address for place in places for address in place.bootstrap))
            if not set(heard) - set(self.bootstrap):
                raise
            self.say(f"found the run on the local network, at {', '.join(heard)}")
            p2p = await self.start(heard)
            self.bootstrap = tuple(dict.fromkeys((*heard, *self.bootstrap)))
            self.invite = dataclasses.replace(self.invite, bootstrap=self.bootstrap)
            return p2p
