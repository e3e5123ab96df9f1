"""A peer's place in a run."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.admission import Invite
from swarm.config import RunConfig
from swarm.identity import Identity


@dataclass(slots=True)
class Joined:
    """What admission gave us; `tokenizer` is a tokenizer.json, empty for bytes."""

    invite: Invite
    identity: Identity
    certificate: bytes
    roles: tuple[str, ...]
    config: RunConfig
    tokenizer: bytes
