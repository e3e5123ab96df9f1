"""What the step leader tells its shell to do, in order."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import MicrobatchDone


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver a message to a peer, after all that was sent to it before."""

    peer: str
    message: object


@dataclass(frozen=True, slots=True)
class NewPlan:
    """Seal the plan and send it to everybody in it."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Record:
    """Make the step durable before anything that follows is carried out."""

    step: int
    plan: int
    round: int
    tokens: int
    loss_sum: float
    grad_norm: float
    work: tuple[tuple[str, MicrobatchDone], ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckPeers:
    """Find out which of these live, then report `checked`."""

    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """Treat this peer as lost, then report `peer_lost`.

    Attributes:
        away_s: it may live: for so long it is not asked again.
    """

    peer: str
    problem: str
    away_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Applied:
    """Every member of `plan` holds the weights after `num_steps` steps; with `checkpoint`, also a copy of them.

    Attributes:
        digests: of the weights, by group.
    """

    num_steps: int
    digests: tuple[str, ...]
    plan: Plan
    checkpoint: bool


@dataclass(frozen=True, slots=True)
class PlanChangeOff:
    """The plan that was proposed will not come; `culprit` is the peer that it failed on, if it was one."""

    problem: str
    culprit: str = ""


@dataclass(frozen=True, slots=True)
class ShadowIsCurrent:
    """A shadow of the plan holds the state of its stage, and follows it from now on."""

    peer: str
    span: Span


@dataclass(frozen=True, slots=True)
class ShadowIsGone:
    """A shadow of the plan keeps no copy."""

    peer: str
    span: Span
    problem: str


@dataclass(frozen=True, slots=True)
class Halt:
    """The run cannot go on."""

    problem: str
    stage: int


@dataclass(frozen=True, slots=True)
class Regroup:
    """This plan cannot be led any further: gather the members again, from the state that they can bring together.

    Attributes:
        stage: the group that is empty; -1 where it is not for want of one.
    """

    problem: str
    stage: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Every step is applied."""


Instruction = (
    Send
    | NewPlan
    | PlanChangeOff
    | ShadowIsCurrent
    | ShadowIsGone
    | Record
    | CheckPeers
    | Lost
    | Applied
    | Halt
    | Regroup
    | Finish
)
