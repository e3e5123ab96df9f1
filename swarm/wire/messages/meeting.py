"""How peers meet: the greeting, admission, measurements, the directory, the plan."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.codec import message
from swarm.wire.messages.numbers import natural


@message(10)
@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First frame of a channel, in both directions; an empty certificate may only ask to be admitted."""

    version: int
    fingerprint: str
    certificate: bytes


@message(11)
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request was refused: the fields of a `SwarmError`."""

    code: str
    problem: str
    remedy: str


@message(12)
@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Received and taken in."""


@message(13)
@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """A stranger shows an invite."""

    invite: str


@message(14)
@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The stranger's certificate and the run's configuration; the payload is its tokenizer.json, empty for bytes."""

    certificate: bytes
    run_json: str


@message(15)
@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a peer measured of itself on the run's own layers.

    Attributes:
        memory_bytes: free for the swarm, on the device that computes.
        layer_seconds: forward and backward of one trunk layer for one microbatch; 0 for a peer that does not host.
        bytes_per_s: to the scheduler over the real transport.
    """

    roles: tuple[str, ...]
    addresses: tuple[str, ...]
    memory_bytes: int
    layer_seconds: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        natural(memory_bytes=self.memory_bytes)
        if not (self.layer_seconds == 0 or 1e-9 <= self.layer_seconds <= 1e6):
            raise ValueError(f"a layer takes {self.layer_seconds} s")
        if not (self.bytes_per_s == 0 or 1 <= self.bytes_per_s <= 1e15):
            raise ValueError(f"the rate is {self.bytes_per_s} bytes/s")


@message(17)
@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedProbe:
    """Its payload is timed and thrown away."""


@message(18)
@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A member's own view, for people: what it waits for and what it did."""

    waiting_for: str
    computed_tokens: int


@message(80)
@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """A member announces itself in the DHT; sealed by it, valid until `expires_at_s`."""

    certificate: bytes
    capabilities: Capabilities
    expires_at_s: float


@message(81)
@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderRecord:
    """The leading scheduler announces itself and its newest sealed plan (empty before the first)."""

    certificate: bytes
    term: int
    addresses: tuple[str, ...]
    plan: bytes
    expires_at_s: float


@message(30)
@dataclass(frozen=True, slots=True, kw_only=True)
class AssignPlan:
    """A plan, sealed by the leader."""

    term: int
    sealed: bytes


@message(31)
@dataclass(frozen=True, slots=True, kw_only=True)
class StageReady:
    """This replica holds its layers and waits for step `step`."""

    plan: int
    stage: int
    step: int
    digest: str
