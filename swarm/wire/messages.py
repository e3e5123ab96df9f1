"""Every message of the protocol, one frozen dataclass each; PROTOCOL.md says when each is sent.

Numbers are for ever: a changed message gets a new number and PROTOCOL_VERSION goes up.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.codec import message

PROTOCOL_VERSION = 1
MAX_ROUTE = 256
MAX_RANK = 4


_LARGEST = 2**62
"""Of every count: what a database and a 64-bit integer hold without overflow."""


def _natural(**values: int) -> None:
    for name, value in values.items():
        if not 0 <= value < _LARGEST:
            raise ValueError(f"{name} is {value}")


# --- meeting -------------------------------------------------------------------------------------------------------


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
        _natural(memory_bytes=self.memory_bytes)
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


# --- the directory -------------------------------------------------------------------------------------------------


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


# --- the plan ------------------------------------------------------------------------------------------------------


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


# --- a microbatch --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Lease:
    """A microbatch number, lent to one owner; a number that changes owners gets a higher lease."""

    number: int
    lease: int

    def __post_init__(self) -> None:
        _natural(number=self.number, lease=self.lease)


@dataclass(frozen=True, slots=True, order=True)
class Work:
    """One way of one microbatch through the stages; a replay raises the attempt."""

    step: int
    lease: Lease
    attempt: int

    def __post_init__(self) -> None:
        _natural(step=self.step, attempt=self.attempt)


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
        _natural(tokens=self.tokens, cursor=self.cursor)


@message(44)
@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectPeer:
    """Direct evidence for the leader: this peer did not take or answer a frame."""

    peer: str
    problem: str


# --- a step --------------------------------------------------------------------------------------------------------


@message(50)
@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLeases:
    """The owner may compute these microbatches of the step."""

    term: int
    plan: int
    step: int
    leases: tuple[Lease, ...]


@message(51)
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayWork:
    """Some stage lost these: the owner sends them again, around the lost peers.

    Attributes:
        work: the attempts to be replaced; where a later one was made already, there is nothing to do.
    """

    term: int
    step: int
    work: tuple[Work, ...]
    lost: tuple[str, ...]


@message(52)
@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStep:
    """What this replica should have counted, and the round it then prepares.

    Attributes:
        round: number of the attempt to reduce this step; higher replaces lower.
        counted: what the ledger gives to the receiver, sorted.
        members, tokens: of the round, in the order of its parts; tokens are the ledger's weights.
    """

    term: int
    plan: int
    step: int
    stage: int
    round: int
    counted: tuple[Lease, ...]
    members: tuple[str, ...]
    tokens: tuple[int, ...]


@message(53)
@dataclass(frozen=True, slots=True, kw_only=True)
class StepClosed:
    """The books agree and the round is prepared, unless something is missing."""

    step: int
    stage: int
    round: int
    missing: tuple[Lease, ...]


@message(54)
@dataclass(frozen=True, slots=True, kw_only=True)
class GoRound:
    """Every member of the round is prepared: reduce."""

    term: int
    step: int
    stage: int
    round: int


@message(55)
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReduced:
    """The averaged gradient, by its hash and square norm."""

    step: int
    stage: int
    round: int
    digest: str
    square_norm: float


@message(56)
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFailed:
    """The round has a hole; nothing was applied."""

    step: int
    stage: int
    round: int
    problem: str


@message(64)
@dataclass(frozen=True, slots=True, kw_only=True)
class CannotContinue:
    """A member cannot do its part of the step.

    Attributes:
        diverged: because values are not finite, which no replacement would mend.
    """

    step: int
    stage: int
    diverged: bool
    problem: str


@message(57)
@dataclass(frozen=True, slots=True, kw_only=True)
class ReopenStep:
    """The round is off: drop what was prepared and take frames again."""

    term: int
    step: int
    stage: int
    round: int


@message(58)
@dataclass(frozen=True, slots=True, kw_only=True)
class CommitStep:
    """All stages are reduced: apply, with the norm of the whole model's gradient.

    Attributes:
        snapshot: keep a copy of the new state for the checkpoint.
    """

    term: int
    plan: int
    step: int
    stage: int
    round: int
    grad_norm: float
    snapshot: bool


@message(59)
@dataclass(frozen=True, slots=True, kw_only=True)
class StepApplied:
    """The weights after the step, by their hash."""

    step: int
    stage: int
    digest: str


@message(62)
@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Messages from the leader to a member, in order, each encoded; none at all asks whether the member lives."""

    items: tuple[bytes, ...]


@message(63)
@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """Messages from a member to the leader, in order, each encoded."""

    items: tuple[bytes, ...]


@message(60)
@dataclass(frozen=True, slots=True, kw_only=True)
class PeersLost:
    """Owners: route around these."""

    term: int
    peers: tuple[str, ...]


@message(61)
@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The last step is committed and kept; go home."""

    term: int
    problem: str


# --- state ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PartInfo:
    """One file of a checkpoint."""

    name: str
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _natural(num_bytes=self.num_bytes)


@message(70)
@dataclass(frozen=True, slots=True, kw_only=True)
class ListState:
    """Which files does your snapshot after `step` steps have?"""

    step: int
    stage: int


@message(71)
@dataclass(frozen=True, slots=True, kw_only=True)
class StateList:
    """They are these."""

    parts: tuple[PartInfo, ...]


@message(72)
@dataclass(frozen=True, slots=True, kw_only=True)
class FetchState:
    """Bytes `offset` and on of one file; the reply's payload."""

    step: int
    stage: int
    name: str
    offset: int

    def __post_init__(self) -> None:
        _natural(offset=self.offset)


@message(73)
@dataclass(frozen=True, slots=True, kw_only=True)
class StateChunk:
    """The payload holds the bytes asked for."""
