"""What is simulated: peers, a plan, a model, and what happens to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.planner.instance import Regions
from swarm.plan import Plan

FORWARD_SHARE = 1 / 3
"""Of forward and backward together: a backward takes twice as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHost:
    """A host as it would measure itself; see `scheduler.planner.instance.Hosts`.

    Attributes:
        layer_s: forward and backward of one trunk layer for one microbatch.
        overhead_s: of one microbatch, forward and backward together.
        apply_s: of the optimizer's step.
        memory_bytes: where the swarm is replanned.
    """

    name: str
    layer_s: float
    overhead_s: float = 0.0
    up_bytes_per_s: float
    down_bytes_per_s: float
    region: int = 0
    apply_s: float = 0.0
    memory_bytes: float = 2.0**40


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualOwner:
    """A data owner.

    Attributes:
        ends_s: forward and backward of both ends, for one microbatch; the two ends count as alike.
    """

    name: str
    ends_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float
    region: int = 0
    apply_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Death:
    """A peer is gone from one moment to the next."""

    time_s: float
    peer: str


@dataclass(frozen=True, slots=True)
class Join:
    """A host is there and has nothing yet."""

    time_s: float
    host: VirtualHost


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """One simulation.

    Attributes:
        plan: the first one: spans, replicas, routing weights, window. All its members are ready.
        hosts: at least those of the plan.
        owners: at least those of the plan.
        num_microbatches: of the global batch.
        boundary_bytes: one boundary activation, or its gradient, as it is sent.
        gradient_bytes: of one trunk layer, in an all-reduce, as it is sent.
        ends_gradient_bytes: of both ends.
        layer_state_bytes: what a host fetches for one layer before it can serve it.
        leader_round_trip_s: to the scheduler and back; its messages are small.
        detection_s: from a death to the moment when the leader counts the peer as lost.
        deaths, joins: in order of time. Who joins stands by until a plan has it.
    """

    plan: Plan
    hosts: tuple[VirtualHost, ...]
    owners: tuple[VirtualOwner, ...]
    num_steps: int
    num_microbatches: int
    microbatch_tokens: int
    boundary_bytes: float
    gradient_bytes: float = 0.0
    ends_gradient_bytes: float = 0.0
    layer_state_bytes: float = 0.0
    leader_round_trip_s: float = 0.0
    regions: Regions = field(default_factory=Regions.unlimited)
    detection_s: float = 5.0
    deaths: tuple[Death, ...] = ()
    joins: tuple[Join, ...] = ()
