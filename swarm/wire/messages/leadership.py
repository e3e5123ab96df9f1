"""Who leads, what members can bring back after a leader is gone, and how they begin again together."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.codec import message
from swarm.wire.messages.numbers import natural


@dataclass(frozen=True, slots=True, order=True)
class RoundKey:
    """The all-reduce that made a step's average; (0, 0) for a state that no round led to."""

    term: int
    round: int

    def __post_init__(self) -> None:
        natural(term=self.term, round=self.round)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """States of one group that a member can go on from.

    Attributes:
        first_layer, last_layer: half-open span of trunk layers; both 0 for the ends.
        first_steps, committed_steps, last_steps: numbers of steps of the oldest state, of the newest that is known to
            be committed, and of the newest (at most one more: it is averaged, but perhaps not committed).
        committed_key, last_key: rounds that led to the last two.
        grad_norm: of the whole model, in the newest committed step; 0 where it is not known any more.
        square_norm: of the average that leads to `last_steps`; 0 where that is committed.
    """

    first_layer: int
    last_layer: int
    first_steps: int
    committed_steps: int
    last_steps: int
    committed_key: RoundKey
    last_key: RoundKey
    grad_norm: float
    square_norm: float

    def __post_init__(self) -> None:
        natural(first_layer=self.first_layer, last_layer=self.last_layer, first_steps=self.first_steps)
        natural(committed_steps=self.committed_steps, last_steps=self.last_steps)
        if not self.first_steps <= self.committed_steps <= self.last_steps <= self.committed_steps + 1:
            raise ValueError(f"states from {self.first_steps} over {self.committed_steps} to {self.last_steps}")


@message(83)
@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A scheduler means to lead this term.

    Attributes:
        plan: number of the newest plan that it knows; 0 for none.
    """

    term: int
    plan: int

    def __post_init__(self) -> None:
        natural(term=self.term, plan=self.plan)


@message(84)
@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """This member obeys nobody else until it grants a higher term.

    Attributes:
        holdings: states that it can bring.
        run_is_paused: another scheduler told it so, and no step began since.
    """

    term: int
    holdings: tuple[Holding, ...]
    run_is_paused: bool


@message(85)
@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """This member obeys another leader, or knows a newer plan.

    Attributes:
        term, leader: that it obeys.
        leader_lives: whether that one answered just now.
        plan: the newest it knows, as its leader sealed it; empty for none.
    """

    term: int
    leader: str
    leader_lives: bool
    plan: bytes


@message(86)
@dataclass(frozen=True, slots=True, kw_only=True)
class AskLeader:
    """Does the receiver still lead this term?"""

    term: int


@message(87)
@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderSays:
    """Whether it does."""

    leads: bool


@message(88)
@dataclass(frozen=True, slots=True, kw_only=True)
class Regroup:
    """The run goes on from the state after `num_steps` steps: bring your groups there, and forget what led elsewhere.

    Attributes:
        key: of the round that led there; an average of another round is not of this history.
        grad_norm: of the whole model in the last of these steps, for members that have not applied it.
        share: keep copies for members that have to load.
    """

    term: int
    num_steps: int
    key: RoundKey
    grad_norm: float
    share: bool

    def __post_init__(self) -> None:
        natural(num_steps=self.num_steps)


@message(89)
@dataclass(frozen=True, slots=True, kw_only=True)
class StartOver:
    """The swarm went on without this member: what it holds is of no use any more."""

    term: int


@message(90)
@dataclass(frozen=True, slots=True, kw_only=True)
class AskRecord:
    """A scheduler whose ledger lacks a step asks its members for it."""

    step: int

    def __post_init__(self) -> None:
        natural(step=self.step)


@message(91)
@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFound:
    """The step's ledger as its leader wrote it down before the round: the payload, empty where there is none.

    Attributes:
        key: of that round.
        grad_norm: of the whole model, if the member heard of the commit; else 0.
    """

    key: RoundKey
    grad_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEntry:
    """One microbatch of a step's record; peers by their place in the record's groups."""

    number: int
    lease: int
    attempt: int
    owner: int
    route: tuple[int, ...]
    tokens: int
    loss_sum: float
    cursor: int

    def __post_init__(self) -> None:
        natural(owner=self.owner)
        for place in self.route:
            natural(place=place)


@message(94)
@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """Who computed what in one step; travels compressed, inside of other messages.

    Attributes:
        groups: peer ids by stage, the owners last.
    """

    plan: int
    step: int
    key: RoundKey
    groups: tuple[tuple[str, ...], ...]
    entries: tuple[RecordEntry, ...]


@message(92)
@dataclass(frozen=True, slots=True, kw_only=True)
class FollowLedger:
    """A standby asks the leader for what it has committed from this step on."""

    from_step: int

    def __post_init__(self) -> None:
        natural(from_step=self.from_step)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStep:
    """One committed step: its record, and what was known at the commit only."""

    step: int
    key: RoundKey
    grad_norm: float
    record: bytes


@message(93)
@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerTail:
    """Some of them, in order.

    Attributes:
        plan: the newest, sealed; empty before the first.
        resigned: the leader wishes to be followed by the standby that asks.
    """

    term: int
    plan: bytes
    steps: tuple[LedgerStep, ...]
    resigned: bool
