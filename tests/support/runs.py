"""A run without a network: its configuration, its admin, and members with certificates."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from swarm.admission import Certificate, Invite, Membership, seal
from swarm.config import RunConfig, build
from swarm.identity import Identity
from swarm.wire.messages import Capabilities, Heartbeat

TINY_MODEL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


def capabilities(**changed: Any) -> Capabilities:
    """What an ordinary host measured, but for what is given."""
    ordinary: dict[str, Any] = {
        "roles": ("host",),
        "addresses": (),
        "memory_bytes": 1 << 30,
        "layer_seconds": 0.5,
        "overhead_seconds": 0.001,
        "layer_bytes": 1 << 20,
        "graph_bytes": 1 << 16,
        "ends_seconds": 0.0,
        "up_bytes_per_s": 1e6,
        "down_bytes_per_s": 1e6,
        "links": (),
    }
    return Capabilities(**ordinary | changed)


def heartbeat(computed_tokens: int = 0, waiting_for: str = "") -> Heartbeat:
    """A small message for tests of what carries messages."""
    return Heartbeat(waiting_for=waiting_for, computed_tokens=computed_tokens, layer_seconds=0.0)


@dataclass(slots=True)
class Run:
    """A run and its admin."""

    admin: Identity = field(default_factory=Identity.generate)
    sections: dict[str, Any] = field(default_factory=dict)
    config: RunConfig = field(init=False)

    def __post_init__(self) -> None:
        values = {"name": "test", "model": TINY_MODEL, "admin_public_key": self.admin.public_key}
        self.config = build(RunConfig, values | self.sections, "test")

    @property
    def membership(self) -> Membership:
        """Checks certificates of this run."""
        return Membership(self.config.fingerprint, self.config.admin_public_key)

    def certificate(self, peer: Identity, *roles: str, lives_s: float = 99.0, signer: Identity | None = None) -> bytes:
        """A certificate for a peer, by the admin or somebody who is not."""
        body = Certificate(
            fingerprint=self.config.fingerprint,
            peer_id=peer.peer_id,
            roles=roles or ("host",),
            expires_at_s=time.time() + lives_s,
        )
        return seal(signer or self.admin, body)

    def invite(self, *roles: str, lives_s: float = 99.0, uses: int = 5, bootstrap: tuple[str, ...] = ()) -> Invite:
        """An invite, not yet signed."""
        return Invite(
            run_name=self.config.name,
            fingerprint=self.config.fingerprint,
            admin_public_key=self.admin.public_key,
            roles=roles or ("host",),
            uses=uses,
            expires_at_s=time.time() + lives_s,
            nonce=b"n" * 16,
            bootstrap=bootstrap,
        )
