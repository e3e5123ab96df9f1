"""From the planner's answer to a plan that members can follow: names, spans, routing weights, shares of all-reduces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scheduler.planner.codecs import codec_rows
from scheduler.planner.evaluator import Evaluation, evaluate, reduce_fractions
from scheduler.planner.instance import Assignment, Floats, Instance
from swarm.config import RunConfig
from swarm.errors import RunError
from swarm.model.layout import Layout
from swarm.plan import Plan, StagePlan, ThinLine
from swarm.wire.compression import encoded_bytes

_LEAST_FRACTION = 1e-3
"""Of an all-reduce: whoever takes part reduces something."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What plans of one run have in common.

    Attributes:
        fingerprint: of the run.
        first_layer: of the trunk.
        codecs: that boundary tensors may have, the finest first, and the bytes of a tensor with each.
    """

    fingerprint: str
    first_layer: int
    codecs: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: RunConfig, layout: Layout) -> Draft:
        """Of a run."""
        values = config.microbatch_tokens * layout.hidden_size
        codecs = {codec: float(encoded_bytes(codec, values)) for codec in config.numerics.boundary_codecs}
        return cls(config.fingerprint, layout.trunk.first, codecs)

    def plan(
        self,
        instance: Instance,
        assignment: Assignment,
        *,
        number: int,
        first_step: int,
        standby: tuple[str, ...] = (),
        shadows: Mapping[str, int] | None = None,
    ) -> Plan:
        """Write a plan down.

        Args:
            assignment: hosts without a stage in it stand by.
            standby: peers that stand by and are not in `instance`.
            shadows: by host, the stage of which it keeps a copy beside its own.

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
            stages=self._stages(instance, assignment, evaluation, shadows or {}),
            owners=owners.names,
            owner_fractions=_fractions(np.minimum(owners.up_bytes_per_s, owners.down_bytes_per_s)),
            standby=tuple(sorted({*names[assignment.stage < 0].tolist(), *standby})),
            window=evaluation.window(len(owners.names), instance.work.global_batch),
            predicted_tokens_per_s=evaluation.tokens_per_s,
            thin_lines=self._thin_lines(instance, assignment, evaluation),
        )

    def _thin_lines(self, instance: Instance, assignment: Assignment, evaluation: Evaluation) -> tuple[ThinLine, ...]:
        if len(self.codecs) < 2:
            return ()
        codecs = tuple(self.codecs)
        hosts, owners = codec_rows(instance, assignment, evaluation, tuple(self.codecs.values()))
        names = [*instance.hosts.names, *instance.owners.names]
        has_part = [*(assignment.stage >= 0).tolist(), *[True] * len(owners)]
        rows = zip(names, [*hosts.tolist(), *owners.tolist()], has_part, strict=True)
        return tuple(ThinLine(peer=peer, codec=codecs[row]) for peer, row, is_used in rows if is_used and row)

    def _stages(
        self, instance: Instance, assignment: Assignment, evaluation: Evaluation, shadows: Mapping[str, int]
    ) -> tuple[StagePlan, ...]:
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
                    shadows=tuple(sorted(name for name, stage in shadows.items() if stage == number)),
                )
            )
            first += size
        return tuple(stages)


def _fractions(lines_bytes_per_s: Floats) -> tuple[float, ...]:
    return tuple(np.maximum(reduce_fractions(lines_bytes_per_s), _LEAST_FRACTION).tolist())
