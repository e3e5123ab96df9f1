"""A real run, to be simulated: its peers as they measured themselves, and its plan."""

from __future__ import annotations

from typing import Any

from benchmarks.simulator.config import SimConfig, VirtualHost, VirtualOwner
from scheduler.planner.intake import claims_of
from scheduler.survey import survey
from swarm.config import RunConfig
from swarm.model.blueprint import layout
from swarm.plan import Plan, StagePlan
from swarm.wire.messages import Capabilities, Link

_CAPABILITIES = frozenset(Capabilities.__dataclass_fields__)


def replayed(config: RunConfig, status: dict[str, Any], num_steps: int) -> SimConfig:
    """What the scheduler knew, for the simulator.

    Args:
        config: of the run.
        status: the scheduler's status file, of which the plan and the peers count.
        num_steps: to simulate.
    """
    facts = {peer: _capabilities(values) for peer, values in status["peers"].items()}
    hosts = {peer: each for peer, each in facts.items() if "host" in each.roles}
    owners = {peer: each for peer, each in facts.items() if "owner" in each.roles}
    (scheduler,) = {link.peer for each in facts.values() for link in each.links[:1]}
    instance = survey(config, layout(config), hosts, owners, scheduler).instance
    work = instance.work
    return SimConfig(
        plan=_plan(status["plan"], config),
        hosts=tuple(
            VirtualHost(
                name=claim.name,
                layer_s=claim.layer_s,
                overhead_s=claim.overhead_s,
                up_bytes_per_s=claim.up_bytes_per_s,
                down_bytes_per_s=claim.down_bytes_per_s,
                region=claim.region,
                memory_bytes=claim.memory_bytes,
            )
            for claim in claims_of(instance.hosts)
        ),
        owners=tuple(
            VirtualOwner(
                name=name,
                ends_s=float(instance.owners.ends_s[row]),
                up_bytes_per_s=float(instance.owners.up_bytes_per_s[row]),
                down_bytes_per_s=float(instance.owners.down_bytes_per_s[row]),
                region=int(instance.owners.region[row]),
            )
            for row, name in enumerate(instance.owners.names)
        ),
        num_steps=num_steps,
        num_microbatches=work.global_batch,
        microbatch_tokens=work.microbatch_tokens,
        boundary_bytes=work.boundary_bytes,
        gradient_bytes=work.gradient_bytes,
        ends_gradient_bytes=work.ends_gradient_bytes,
        layer_state_bytes=work.layer_state_bytes,
        leader_round_trip_s=max(each.links[0].round_trip_s for each in facts.values()),
        regions=instance.regions,
    )


def _capabilities(values: dict[str, Any]) -> Capabilities:
    fields = {name: value for name, value in values.items() if name in _CAPABILITIES}
    fields |= {name: tuple(fields[name]) for name in ("roles", "addresses")}
    return Capabilities(**fields | {"links": tuple(Link(**link) for link in fields["links"])})


def _plan(values: dict[str, Any], config: RunConfig) -> Plan:
    return Plan(
        number=1,
        fingerprint=config.fingerprint,
        first_step=0,
        stages=tuple(
            StagePlan(
                first_layer=stage["layers"][0],
                last_layer=stage["layers"][1],
                replicas=tuple(stage["replicas"]),
                routing_weights=tuple(stage["routing_weights"]),
                reduce_fractions=tuple(stage["reduce_fractions"]),
            )
            for stage in values["stages"]
        ),
        owners=tuple(values["owners"]),
        owner_fractions=(1.0,) * len(values["owners"]),
        standby=(),
        window=values["window"],
        predicted_tokens_per_s=values["predicted_tokens_per_s"],
    )
