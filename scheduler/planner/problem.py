"""What a planner is asked, and what it answers. Pure: seconds, bytes and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from swarm.model.spans import LayerSpan

BYTES_PER_PARAMETER = 16
"""fp32 weight, gradient sum and two Adam moments."""
GRAPH_BOUNDARIES_PER_LAYER = 24
"""Bytes that a layer's graph keeps for one microbatch, in boundary activations; an estimate for the Llama kind."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host as it measured itself.

    Attributes:
        layer_s: forward and backward of one trunk layer for one microbatch.
    """

    peer: str
    memory_bytes: int
    layer_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Place these layers on these hosts.

    Attributes:
        trunk: layers that hosts share.
        layer_parameters: parameters of one trunk layer (the largest).
        boundary_bytes: one boundary activation as it is sent.
        global_batch: microbatches a step.
        microbatch_tokens: tokens of one of them.
        num_stages: a wish of the admin; 0 leaves it to the planner.
    """

    hosts: tuple[HostFacts, ...]
    owners: tuple[str, ...]
    trunk: LayerSpan
    layer_parameters: int
    boundary_bytes: int
    global_batch: int
    microbatch_tokens: int
    num_stages: int = 0

    def layer_bytes(self, in_flight: int) -> int:
        """Memory of one layer with so many microbatches in flight."""
        return (
            self.layer_parameters * BYTES_PER_PARAMETER + in_flight * GRAPH_BOUNDARIES_PER_LAYER * self.boundary_bytes
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Spans, who hosts them, and what that should give.

    Attributes:
        spans: one a stage, covering the trunk.
        replicas: peer ids, one tuple a stage.
        weights: of routing, as `replicas`: microbatches per second each can compute.
        window: microbatches an owner may have in flight.
        tokens_per_s: predicted.
    """

    spans: tuple[LayerSpan, ...]
    replicas: tuple[tuple[str, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    window: int
    tokens_per_s: float


class Planner(Protocol):
    """From a problem to a placement."""

    def __call__(self, problem: Problem) -> Placement:
        """Raises ModelTooLarge or RunError where there is none."""
