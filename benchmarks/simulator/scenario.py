"""From a swarm's description to a simulation: planned by the production planner, churned by seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.planner.families import FAMILIES, make
from benchmarks.simulator.config import Death, Join, SimConfig, VirtualHost, VirtualOwner
from benchmarks.simulator.replanning import Followed
from scheduler.drafting import Draft
from scheduler.on_paper.peers_file import on_paper, read_model, read_peers
from scheduler.planner.evaluator import Evaluation
from scheduler.planner.heuristic import certified_plan
from scheduler.planner.instance import Instance, Owners
from scheduler.planner.intake import Measured, claims_of
from scheduler.planner.occupancy import FETCHED_SHARE
from scheduler.replanning import policy_of
from swarm.errors import UnknownKey
from swarm.plan import Plan

_TRACE_SHARE = 4.0
"""Churn is drawn for so many times the predicted length of the run: churn makes it longer."""


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """A planned swarm.

    Attributes:
        predicted: by the planner.
    """

    config: SimConfig
    predicted: Evaluation
    instance: Instance

    def followed(self, shadow_copies: float = 0.0) -> Followed:
        """The production replanner, from this swarm's first plan on.

        Args:
            shadow_copies: as the run's configuration has it.
        """
        return Followed(self.instance, self.config.plan, policy_of(shadow_copies))


def of_family(name: str, num_peers: int, seed: int) -> Instance:
    """A synthetic swarm.

    Raises:
        UnknownKey: there is no such family.
    """
    for family in FAMILIES:
        if family.name == name:
            return make(family, num_peers, seed)
    known = ", ".join(family.name for family in FAMILIES)
    raise UnknownKey(f"there is no family {name!r}", f"choose one of {known}")


def of_file(peers: Path, model: Path) -> Instance:
    """The swarm of a PEERS.json, as `swarm plan` reads it, and the work of a run.toml.

    Raises:
        ConfigError, UnknownKey, ModelUnsupported: as `read_peers` and `read_model`.
    """
    return on_paper(read_peers(peers), read_model(model)).instance


def planned(instance: Instance, num_steps: int, leader_round_trip_s: float) -> Scenario:
    """Plan with the production planner, and simulate that plan.

    Raises:
        ModelTooLarge, RunError: there is no plan.
    """
    found = certified_plan(instance)
    plan = Draft("", 0).plan(instance, found.assignment, number=1, first_step=0)
    return Scenario(sim_config(instance, plan, num_steps, leader_round_trip_s), found.evaluation, instance)


def sim_config(instance: Instance, plan: Plan, num_steps: int, leader_round_trip_s: float) -> SimConfig:
    """A plan of an instance, to be simulated."""
    work = instance.work
    return SimConfig(
        plan=plan,
        hosts=tuple(_virtual(claim) for claim in claims_of(instance.hosts)),
        owners=_owners(instance.owners),
        num_steps=num_steps,
        num_microbatches=work.global_batch,
        microbatch_tokens=work.microbatch_tokens,
        boundary_bytes=work.boundary_bytes,
        gradient_bytes=work.gradient_bytes,
        ends_gradient_bytes=work.ends_gradient_bytes,
        layer_state_bytes=FETCHED_SHARE * work.layer_state_bytes,
        leader_round_trip_s=leader_round_trip_s,
        regions=instance.regions,
    )


def churned(scenario: Scenario, mean_life_s: float, seed: int) -> Scenario:
    """The same swarm in a steady state: exponential lives, joins at random, by hosts like those that are there."""
    config = scenario.config
    generator = np.random.default_rng(seed)
    end_s = _TRACE_SHARE * config.num_steps * scenario.predicted.step_s
    hosts = list(config.hosts)
    num_joins = int(generator.poisson(len(hosts) * end_s / mean_life_s))
    joins_s = np.sort(generator.uniform(0, end_s, num_joins)).tolist()
    likes = generator.integers(len(hosts), size=num_joins).tolist()
    joins = [
        Join(time_s, replace(hosts[like], name=f"joiner{number:05}"))
        for number, (time_s, like) in enumerate(zip(joins_s, likes, strict=True))
    ]
    there = [(0.0, host.name) for host in hosts] + [(join.time_s, join.host.name) for join in joins]
    lives_s = generator.exponential(mean_life_s, len(there)).tolist()
    deaths = [Death(born_s + life_s, name) for (born_s, name), life_s in zip(there, lives_s, strict=True)]
    due = tuple(sorted((death for death in deaths if death.time_s < end_s), key=lambda death: death.time_s))
    return replace(scenario, config=replace(config, joins=tuple(joins), deaths=due))


def _virtual(claim: Measured) -> VirtualHost:
    return VirtualHost(
        name=claim.name,
        layer_s=claim.layer_s,
        overhead_s=claim.overhead_s,
        up_bytes_per_s=claim.up_bytes_per_s,
        down_bytes_per_s=claim.down_bytes_per_s,
        region=claim.region,
        memory_bytes=claim.memory_bytes,
    )


def _owners(owners: Owners) -> tuple[VirtualOwner, ...]:
    return tuple(
        VirtualOwner(
            name=name,
            ends_s=float(owners.ends_s[row]),
            up_bytes_per_s=float(owners.up_bytes_per_s[row]),
            down_bytes_per_s=float(owners.down_bytes_per_s[row]),
            region=int(owners.region[row]),
        )
        for row, name in enumerate(owners.names)
    )
