"""One optimizer step: orders of the leader, reports of the members."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.codec import message
from swarm.wire.messages.microbatch import Lease, Work


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


@message(95)
@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStep:
    """What this replica should have counted, and the round it then prepares.

    Attributes:
        round: number of the attempt to reduce this step; higher replaces lower.
        counted: what the ledger gives to the receiver, sorted.
        members, tokens, fractions: of the round, in the order of its parts: tokens are the ledger's weights, fractions
            the share of the values that each member averages.
        record: for some members of every group: the step's whole ledger, to be kept for a scheduler that may have to
            take over; empty for the others.
    """

    term: int
    plan: int
    step: int
    stage: int
    round: int
    counted: tuple[Lease, ...]
    members: tuple[str, ...]
    tokens: tuple[int, ...]
    fractions: tuple[float, ...]
    record: bytes


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


@message(101)
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFailed:
    """The round has a hole; nothing was applied.

    Attributes:
        blamed: the member it broke on, in the reporter's eyes; empty where it does not know.
    """

    step: int
    stage: int
    round: int
    problem: str
    blamed: str = ""


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


@message(112)
@dataclass(frozen=True, slots=True, kw_only=True)
class CommitStep:
    """All stages are reduced: apply, with the norm of the whole model's gradient.

    Attributes:
        snapshot: keep a copy of the new state, for a checkpoint or for peers that load it.
        averages_after: keep averages that lead beyond so many steps, for peers that follow this group; -1 for none.
    """

    term: int
    plan: int
    step: int
    stage: int
    round: int
    grad_norm: float
    snapshot: bool
    averages_after: int


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


@message(97)
@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A member wants to go home: plan without it. Until then it goes on working."""


@message(98)
@dataclass(frozen=True, slots=True, kw_only=True)
class MayLeave:
    """A step was committed without this member, whose work before it is counted; nobody needs what it holds."""

    term: int


@message(109)
@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused:
    """The admin paused the run after the last committed step, or lets it go on; members stay."""

    term: int
    paused: bool


@message(61)
@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The last step is committed and kept; go home."""

    term: int
    problem: str
