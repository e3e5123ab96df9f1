"""What the people on this machine may tell their peer while it runs, and what it says of itself."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from peers.limiting import Limiting
from peers.peer import Peer
from peers.self_view import SelfView, Standstill, what_for
from swarm.errors import ProtocolError
from swarm.net.reach import in_words

_PEOPLE = "people"


@dataclass(slots=True)
class Controls:
    """Of one peer, which has joined."""

    peer: Peer
    limiting: Limiting
    _started_s: float = field(default_factory=time.monotonic)
    _standstill: Standstill = field(default_factory=Standstill)

    def carry_out(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """One request that came over the socket.

        Returns:
            What the peer is afterwards (`peers.self_view.SelfView`), as plain values.

        Raises:
            ProtocolError: a verb that is not known.
            ConfigError: limits that cannot be understood.
        """
        peer = self.peer
        match verb:
            case "me":
                pass
            case "pause":
                peer.pause(_PEOPLE, "somebody at this machine asked for it")
            case "unpause":
                peer.unpause(_PEOPLE)
            case "leave":
                if arguments.get("now") or not peer.leave():
                    peer.leave_at_once()
            case "limits":
                self.limiting.reload()
            case _:
                raise ProtocolError(f"this peer does not know {verb!r}", "use the `swarm` that it was started with")
        return self.look().as_json()

    def look(self) -> SelfView:
        """The peer as of now."""
        peer, assignment, now_s = self.peer, self.peer.assignment, time.monotonic()
        waiting_for = what_for(peer.attending, assignment.waiting_for)
        parts, tokens = tuple(assignment.parts), assignment.computed_tokens
        return SelfView(
            peer=peer.endpoint.peer_id,
            run=peer.joined.config.name,
            roles=peer.roles,
            state=peer.attending.state.value,
            reason=peer.attending.reason,
            leader=peer.leader,
            is_cut_off=peer.is_cut_off,
            reached=in_words(peer.reach),
            parts=parts,
            beside=assignment.beside,
            computed_tokens=tokens,
            computed_microbatches=tokens // peer.joined.config.microbatch_tokens,
            sent_bytes=peer.traffic.sent_bytes,
            received_bytes=peer.traffic.received_bytes,
            today_bytes=self.limiting.today_bytes,
            waiting_for=waiting_for,
            waiting_s=self._standstill.lasts_s(now_s, waiting_for, tokens, parts),
            running_s=now_s - self._started_s,
        )
