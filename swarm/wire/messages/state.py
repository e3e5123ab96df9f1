"""State that moves between peers: parts of the model at a step, and how a peer gets ready for another group."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.codec import message
from swarm.wire.messages.numbers import natural


@dataclass(frozen=True, slots=True, kw_only=True)
class PartInfo:
    """One file of a checkpoint."""

    name: str
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        natural(num_bytes=self.num_bytes)


@message(74)
@dataclass(frozen=True, slots=True, kw_only=True)
class ListState:
    """Which parts do you keep of the state after `num_steps` steps?"""

    num_steps: int

    def __post_init__(self) -> None:
        natural(num_steps=self.num_steps)


@message(71)
@dataclass(frozen=True, slots=True, kw_only=True)
class StateList:
    """They are these."""

    parts: tuple[PartInfo, ...]


@message(75)
@dataclass(frozen=True, slots=True, kw_only=True)
class FetchState:
    """Bytes `offset` and on of one part; the reply's payload."""

    num_steps: int
    name: str
    offset: int

    def __post_init__(self) -> None:
        natural(num_steps=self.num_steps, offset=self.offset)


@message(73)
@dataclass(frozen=True, slots=True, kw_only=True)
class StateChunk:
    """The payload holds the bytes asked for."""


@message(76)
@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareGroup:
    """Get ready for another group beside the present work: load its state, then follow every step.

    Attributes:
        transfer: number of this load.
        num_steps: donors keep the state after so many steps.
        first_layer, last_layer: half-open span of trunk layers; both 0 for the ends.
        next_cursor: for the ends: first microbatch of the receiver's shard that no committed step has used.
        donors: members that hold some of it.
    """

    term: int
    transfer: int
    num_steps: int
    first_layer: int
    last_layer: int
    next_cursor: int
    donors: tuple[str, ...]

    def __post_init__(self) -> None:
        natural(num_steps=self.num_steps, first_layer=self.first_layer, last_layer=self.last_layer)
        natural(next_cursor=self.next_cursor)


@message(110)
@dataclass(frozen=True, slots=True, kw_only=True)
class FollowStep:
    """A step was committed while you load or keep a group's state: apply its average too, with the whole model's norm.

    Attributes:
        round: that led to the average.
    """

    term: int
    transfer: int
    step: int
    round: int
    grad_norm: float


@message(78)
@dataclass(frozen=True, slots=True, kw_only=True)
class CancelGroup:
    """It is needed no more: forget what was loaded."""

    term: int
    transfer: int


@message(79)
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLoaded:
    """The state after `num_steps` steps is here, by the weights' hash."""

    transfer: int
    first_layer: int
    last_layer: int
    num_steps: int
    digest: str


@message(82)
@dataclass(frozen=True, slots=True, kw_only=True)
class GroupNotLoaded:
    """It cannot be loaded, and why."""

    transfer: int
    first_layer: int
    last_layer: int
    problem: str
