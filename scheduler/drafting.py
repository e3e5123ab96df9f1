"""From the planner's answer to a plan that members can follow: names, spans, routing weights, shares of all-reduces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler.planner.evaluator import Evaluation, evaluate, reduce_fractions
from scheduler.planner.instance import Assignment, Floats, Instance
from swarm.errors import RunError
from swarm.plan import Plan, StagePlan

_LEAST_FRACTION = 1e-3
"""Of an all-reduce: whoever takes part reduces something."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What plans of one run have in common.

    Attributes:
        fingerprint: of the run.
        first_layer: of the trunk.
    """

    fingerprint: str
    first_layer: int

    def plan(
        self, instance: Instance, assignment: Assignment, *, number: int, first_step: int, standby: tuple[str, ...] = ()
    ) -> Plan:
        """Write a plan down.

        Args:
            assignment: hosts without a stage in it stand by.
            standby: peers that stand by and are not in `instance`.

        Raises:
            ModelTooLarge, RunError: as `evaluate`.
        """
        evaluation = evaluate(instance, assignment)
        if not np.isfinite(evaluation.tokens_per_s) or not np.isfinite(evaluation.host_rates).all():
            raise RunError("the members' measurements give no throughput", "look for absurd figures in `swarm status`")
        names = np.array(instance.hosts.names, dtype=object)
        owners = instance.owners
        return Plan(
            number=number,
            fingerprint=self.fingerprint,
            first_step=first_step,
            stages=self._stages(instance, assignment, evaluation),
            owners=owners.names,
            owner_fractions=_fractions(np.minimum(owners.up_bytes_per_s, owners.down_bytes_per_s)),
            standby=tuple(sorted({*names[assignment.stage < 0].tolist(), *standby})),
            window=evaluation.window(len(owners.names), instance.work.global_batch),
            predicted_tokens_per_s=evaluation.tokens_per_s,
        )

    def _stages(self, instance: Instance, assignment: Assignment, evaluation: Evaluation) -> tuple[StagePlan, ...]:
        stages, first = [], self.first_layer
        for number, size in enumerate(assignment.sizes.tolist()):
            rows = np.flatnonzero(assignment.stage == number)
            stages.append(
                StagePlan(
                    first_layer=first,
                    last_layer=first + size,
                    replicas=tuple(instance.hosts.names[row] for row in rows.tolist()),
                    routing_weights=tuple(evaluation.host_rates[rows].tolist()),
                    reduce_fractions=_fractions(instance.hosts.reduce_bytes_per_s[rows]),
                )
            )
            first += size
        return tuple(stages)


def _fractions(lines_bytes_per_s: Floats) -> tuple[float, ...]:
    return tuple(np.maximum(reduce_fractions(lines_bytes_per_s), _LEAST_FRACTION).tolist())
