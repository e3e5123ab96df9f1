"""How peers meet: the greeting, admission, measurements, the directory, the plan."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from swarm.wire.codec import message
from swarm.wire.messages.numbers import natural

MAX_LINKS = 64
"""That a peer may report."""


def _seconds(**values: float) -> None:
    for name, value in values.items():
        if not (value == 0 or 1e-9 <= value <= 1e6):
            raise ValueError(f"{name} is {value}")


def _rate(**values: float) -> None:
    for name, value in values.items():
        if not (value == 0 or 1 <= value <= 1e15):
            raise ValueError(f"{name} is {value}")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What lies between a peer and another one, as the first measured it.

    Attributes:
        round_trip_s: of a message without a payload.
        bytes_per_s: of one transfer to the other.
    """

    peer: str
    round_trip_s: float
    bytes_per_s: float

    def __post_init__(self) -> None:
        _seconds(round_trip_s=self.round_trip_s)
        _rate(bytes_per_s=self.bytes_per_s)


@message(16)
@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a peer measured of itself on the run's own layers, and of its lines over the real transport.

    Attributes:
        memory_bytes: free for the swarm, on the device that computes.
        layer_seconds: forward and backward of one trunk layer for one microbatch; 0 for a peer that does not host.
        overhead_seconds: of one microbatch in a stage, whatever its number of layers.
        layer_bytes: of one trunk layer: weights, gradient sums, the optimizer's state.
        graph_bytes: that one trunk layer keeps for one microbatch between forward and backward.
        ends_seconds: forward and backward of both ends for one microbatch; 0 for a peer that owns no data.
        up_bytes_per_s, down_bytes_per_s: of its own line.
        links: to some other peers.
    """

    roles: tuple[str, ...]
    addresses: tuple[str, ...]
    memory_bytes: int
    layer_seconds: float
    overhead_seconds: float
    layer_bytes: int
    graph_bytes: int
    ends_seconds: float
    up_bytes_per_s: float
    down_bytes_per_s: float
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        natural(memory_bytes=self.memory_bytes, layer_bytes=self.layer_bytes, graph_bytes=self.graph_bytes)
        _seconds(
            layer_seconds=self.layer_seconds, overhead_seconds=self.overhead_seconds, ends_seconds=self.ends_seconds
        )
        _rate(up_bytes_per_s=self.up_bytes_per_s, down_bytes_per_s=self.down_bytes_per_s)
        if len(self.links) > MAX_LINKS:
            raise ValueError(f"{len(self.links)} links")


@message(17)
@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedProbe:
    """Its payload is timed and thrown away."""


@message(19)
@dataclass(frozen=True, slots=True, kw_only=True)
class WantProbe:
    """Answer with a `SpeedProbe` of so many bytes."""

    num_bytes: int

    def __post_init__(self) -> None:
        natural(num_bytes=self.num_bytes)


@message(99)
@dataclass(frozen=True, slots=True, kw_only=True)
class Introduce:
    """A member that is about to take part: does anything that you know speak against it?"""


@message(100)
@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a newcomer should compare.

    Attributes:
        time_s: by the answering peer's clock, since 1970.
        addresses: where the directory has a member with the newcomer's id; empty where it has none.
    """

    time_s: float
    addresses: tuple[str, ...]

    def __post_init__(self) -> None:
        if not math.isfinite(self.time_s):
            raise ValueError(f"time_s is {self.time_s}")


@message(107)
@dataclass(frozen=True, slots=True, kw_only=True)
class DialBack:
    """Dial me where you see me: can I be reached from outside?

    Attributes:
        port: that the asking peer listens on.
        invite: of a stranger that may join; empty from a member.
    """

    port: int
    invite: str

    def __post_init__(self) -> None:
        if not 0 < self.port < 1 << 16:
            raise ValueError(f"port is {self.port}")


@message(108)
@dataclass(frozen=True, slots=True, kw_only=True)
class DialledBack:
    """What came of it.

    Attributes:
        seen_at: the IP address that the asking peer's connection comes from; empty where it is not known.
        reached: it answered there, at its port, with its key.
        relays: who answers is a relay for members.
    """

    seen_at: str
    reached: bool
    relays: bool

    def __post_init__(self) -> None:
        if self.seen_at:
            ipaddress.ip_address(self.seen_at)


@message(21)
@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A member's own view: what it waits for and what it did.

    Attributes:
        layer_seconds: forward and backward of one layer for one microbatch, while training; 0 where it has done none.
    """

    waiting_for: str
    computed_tokens: int
    layer_seconds: float

    def __post_init__(self) -> None:
        natural(computed_tokens=self.computed_tokens)
        _seconds(layer_seconds=self.layer_seconds)


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


@message(106)
@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """A scheduler hands on whom the admin sent away: a sealed `Revoked`."""

    sealed: bytes


@message(96)
@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """A member hands its record to a scheduler itself: one that was started anew is not known to the DHT yet."""

    sealed: bytes


@message(30)
@dataclass(frozen=True, slots=True, kw_only=True)
class AssignPlan:
    """A plan, sealed by the leader."""

    term: int
    sealed: bytes
