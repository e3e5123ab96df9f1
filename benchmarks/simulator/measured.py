"""A real run, to be simulated: its peers as they measured themselves, and its plan."""

from __future__ import annotations

from typing import Any

from benchmarks.simulator.config import SimConfig
from benchmarks.simulator.scenario import sim_config
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
    round_trip_s = max(each.links[0].round_trip_s for each in facts.values())
    return sim_config(instance, _plan(status["plan"], config), num_steps, round_trip_s)


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
