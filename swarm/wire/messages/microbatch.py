"""The way of one microbatch through the stages."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.codec import message
from swarm.wire.messages.numbers import natural

MAX_ROUTE = 256
MAX_RANK = 4


@dataclass(frozen=True, slots=True, order=True)
class Lease:
    """A microbatch number, lent to one owner; a number that changes owners gets a higher lease."""

    number: int
    lease: int

    def __post_init__(self) -> None:
        natural(number=self.number, lease=self.lease)


@dataclass(frozen=True, slots=True, order=True)
class Work:
    """One way of one microbatch through the stages; a replay raises the attempt."""

    step: int
    lease: Lease
    attempt: int

    def __post_init__(self) -> None:
        natural(step=self.step, attempt=self.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryTensor:
    """What activations and their gradients share.

    Attributes:
        stage: index into `route` of the receiver; `len(route)` is the owner's back, -1 its front.
        route: one replica a stage, peer ids.
        shape: of the fp32 tensor that the payload decodes to, [sequences, tokens, hidden].
    """

    plan: int
    work: Work
    stage: int
    owner: str
    route: tuple[str, ...]
    codec: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.route) <= MAX_ROUTE or not -1 <= self.stage <= len(self.route):
            raise ValueError("the stage lies outside the route")
        if len(self.shape) > MAX_RANK or any(size <= 0 for size in self.shape):
            raise ValueError(f"no tensor has the shape {self.shape}")

    @property
    def receiver(self) -> str:
        """Peer id that this frame is for."""
        return self.route[self.stage] if 0 <= self.stage < len(self.route) else self.owner


@message(40)
@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(BoundaryTensor):
    """Boundary activation, towards the owner's back."""

    @property
    def sender(self) -> str:
        """Peer id that may send this frame."""
        return self.owner if self.stage == 0 else self.route[self.stage - 1]


@message(41)
@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryGradient(BoundaryTensor):
    """Gradient of a boundary activation, towards the owner's front."""

    @property
    def sender(self) -> str:
        """Peer id that may send this frame."""
        return self.owner if self.stage == len(self.route) - 1 else self.route[self.stage + 1]


@message(42)
@dataclass(frozen=True, slots=True, kw_only=True)
class HopFailed:
    """A host tells the owner that a microbatch cannot go on this way."""

    work: Work
    peer: str
    problem: str


@message(43)
@dataclass(frozen=True, slots=True, kw_only=True)
class MicrobatchDone:
    """An owner tells the leader that every stage counted a microbatch."""

    work: Work
    route: tuple[str, ...]
    tokens: int
    loss_sum: float
    cursor: int

    def __post_init__(self) -> None:
        natural(tokens=self.tokens, cursor=self.cursor)


@message(44)
@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectPeer:
    """Direct evidence for the leader: this peer did not take or answer a frame."""

    peer: str
    problem: str
