"""Small plans for tests of the pure parts."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.plan import Plan, StagePlan


def plan(
    *stages: Sequence[str],
    weights: Sequence[Sequence[float]] | None = None,
    owners: Sequence[str] = ("o",),
    window: int = 2,
    number: int = 1,
) -> Plan:
    """A plan whose stages are these replicas, a layer each, from layer 1 on."""
    return Plan(
        number=number,
        fingerprint="",
        first_step=0,
        stages=tuple(
            StagePlan(
                first_layer=index + 1,
                last_layer=index + 2,
                replicas=tuple(replicas),
                routing_weights=tuple(weights[index] if weights else [1.0] * len(replicas)),
                reduce_fractions=(1.0,) * len(replicas),
            )
            for index, replicas in enumerate(stages)
        ),
        owners=tuple(owners),
        owner_fractions=(1.0,) * len(owners),
        standby=(),
        window=window,
        predicted_tokens_per_s=0.0,
    )
