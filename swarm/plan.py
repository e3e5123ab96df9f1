"""The plan: which layers make a stage, who hosts them, who owns data. Signed, numbered, monotone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from swarm.model.spans import ENDS, LayerSpan, Span, overlap
from swarm.wire.codec import message


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One trunk stage.

    Attributes:
        first_layer, last_layer: half-open span of decoder layers.
        replicas: peer ids of its hosts.
        routing_weights: share of the microbatches each replica gets; any positive numbers.
        reduce_fractions: share of the stage's all-reduce that each replica averages; any positive numbers.
        shadows: peers that keep its state current beside what they serve, so as to take over at once.
    """

    first_layer: int
    last_layer: int
    replicas: tuple[str, ...]
    routing_weights: tuple[float, ...]
    reduce_fractions: tuple[float, ...]
    shadows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.first_layer < self.last_layer:
            raise ValueError(f"no span from {self.first_layer} to {self.last_layer}")
        if len(set(self.replicas)) != len(self.replicas) or len(self.replicas) != len(self.routing_weights):
            raise ValueError("replicas and weights do not match")
        if len(self.replicas) != len(self.reduce_fractions):
            raise ValueError("replicas and fractions do not match")
        if set(self.shadows) & set(self.replicas):
            raise ValueError("a host is its own shadow")
        _positive(self.routing_weights, self.reduce_fractions)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinLine:
    """A peer's line that does not take the finest codec of the run, and the one that it takes."""

    peer: str
    codec: str


@message(111)
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who does what from one step boundary on.

    Attributes:
        number: rises with every plan of the run.
        first_step: the step from which it holds.
        owners: peer ids; together they are the group of the ends.
        owner_fractions: share of the ends' all-reduce that each of them averages.
        standby: admitted hosts without a stage.
        window: microbatches an owner may have in flight.
        predicted_tokens_per_s: by the planner's own model.
        thin_lines: boundary tensors from and to these peers are coarser.
    """

    number: int
    fingerprint: str
    first_step: int
    stages: tuple[StagePlan, ...]
    owners: tuple[str, ...]
    owner_fractions: tuple[float, ...]
    standby: tuple[str, ...]
    window: int
    predicted_tokens_per_s: float
    thin_lines: tuple[ThinLine, ...] = ()

    def __post_init__(self) -> None:
        if not self.stages or self.window < 1 or self.number < 1:
            raise ValueError("an empty plan")
        hosts = [peer for stage in self.stages for peer in stage.replicas]
        if len(set(hosts)) != len(hosts):
            raise ValueError("a host has two stages")
        shadows = [peer for stage in self.stages for peer in stage.shadows]
        if len(set(shadows)) != len(shadows):
            raise ValueError("a host is the shadow of two stages")
        if any(a.last_layer != b.first_layer for a, b in zip(self.stages, self.stages[1:], strict=False)):
            raise ValueError("the stages leave a gap")
        if len(self.owners) != len(self.owner_fractions):
            raise ValueError("owners and fractions do not match")
        _positive(self.owner_fractions)

    @property
    def ends_stage(self) -> int:
        """The group number of the owners' ends, one past the trunk's stages."""
        return len(self.stages)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Peer ids of every group that averages: the trunk's stages, then the owners."""
        return (*(stage.replicas for stage in self.stages), self.owners)

    def groups_of(self, peer: str) -> tuple[int, ...]:
        """The groups that a peer is in."""
        return tuple(index for index, members in enumerate(self.groups) if peer in members)

    def spans_of(self, peer: str) -> frozenset[Span]:
        """What a peer holds: the layers of its stage, and `ENDS` if it owns data."""
        spans = {(stage.first_layer, stage.last_layer) for stage in self.stages if peer in stage.replicas}
        return frozenset(spans | ({ENDS} if peer in self.owners else set()))

    @property
    def shadows(self) -> frozenset[tuple[str, Span]]:
        """Who keeps a copy of which stage that it does not serve."""
        return frozenset(
            (peer, (stage.first_layer, stage.last_layer)) for stage in self.stages for peer in stage.shadows
        )

    def group_of(self, span: Span) -> int | None:
        """The number of the group that holds exactly this span."""
        if span == ENDS:
            return self.ends_stage
        spans = [(stage.first_layer, stage.last_layer) for stage in self.stages]
        return spans.index(span) if span in spans else None

    def members_with(self, span: Span) -> frozenset[str]:
        """Who holds some of it."""
        return frozenset(
            peer for group, members in enumerate(self.groups) if overlap(self.span_of(group), span) for peer in members
        )

    def donors_after(self, span: Span, donors: tuple[str, ...]) -> tuple[str, ...]:
        """Under this plan: members that hold some of a span, and those that did before and are still in the plan."""
        there = {peer for members in self.groups for peer in members}
        return tuple(sorted(self.members_with(span) | (there & set(donors))))

    def span_of(self, group: int) -> Span:
        """What the members of a group hold."""
        if group == self.ends_stage:
            return ENDS
        stage = self.stages[group]
        return stage.first_layer, stage.last_layer

    def fraction_of(self, group: int, peer: str) -> float:
        """A member's share of its group's all-reduce."""
        if group == self.ends_stage:
            return self.owner_fractions[self.owners.index(peer)]
        stage = self.stages[group]
        return stage.reduce_fractions[stage.replicas.index(peer)]

    def numbered(self, number: int) -> Plan:
        """The same plan under another number."""
        return replace(self, number=number)

    def without(self, lost: frozenset[str], first_step: int) -> Plan:
        """The next plan: the same spans without the lost peers."""
        stages = tuple(_stage_without(stage, lost) for stage in self.stages)
        owners = [number for number, peer in enumerate(self.owners) if peer not in lost]
        return replace(
            self,
            number=self.number + 1,
            first_step=first_step,
            stages=stages,
            owners=tuple(self.owners[number] for number in owners),
            owner_fractions=tuple(self.owner_fractions[number] for number in owners),
            standby=tuple(peer for peer in self.standby if peer not in lost),
            thin_lines=tuple(line for line in self.thin_lines if line.peer not in lost),
        )


def why_not(plan: Plan, signer: str, leader: str, fingerprint: str, newest: int, trunk: LayerSpan) -> str:
    """Why a plan that the leader sent is not carried out; empty for one that is.

    Args:
        signer: whose seal it bears.
        leader: who sent it.
        fingerprint: of our run.
        newest: number of the newest plan we know.
        trunk: of our model.
    """
    if signer != leader:
        return f"plan {plan.number} is signed by {signer}, not by {leader}, which sent it"
    if plan.fingerprint != fingerprint:
        return f"plan {plan.number} is of run {plan.fingerprint[:12]}, not of {fingerprint[:12]}"
    if plan.number <= newest:
        return f"plan {plan.number} is not newer than plan {newest}"
    first, last = plan.stages[0].first_layer, plan.stages[-1].last_layer
    if (first, last) != (trunk.first, trunk.last):
        return f"plan {plan.number} has layers {first} to {last}, the trunk {trunk.first} to {trunk.last}"
    return ""


def _stage_without(stage: StagePlan, lost: frozenset[str]) -> StagePlan:
    kept = [number for number, peer in enumerate(stage.replicas) if peer not in lost]
    return replace(
        stage,
        replicas=tuple(stage.replicas[number] for number in kept),
        routing_weights=tuple(stage.routing_weights[number] for number in kept),
        reduce_fractions=tuple(stage.reduce_fractions[number] for number in kept),
        shadows=tuple(peer for peer in stage.shadows if peer not in lost),
    )


def _positive(*columns: tuple[float, ...]) -> None:
    for column in columns:
        if any(not 0 < value < 1e12 for value in column):
            raise ValueError(f"weights or fractions are {column}")
