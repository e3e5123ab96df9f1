"""How others place peers, on our stages and judged by our evaluator.

None of them is the original program: each is its rule for who goes where, given the sizes of stages.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scheduler.planner.evaluator import evaluate, host_rates
from scheduler.planner.instance import Assignment, Flags, Floats, Instance, Ints
from swarm.errors import RunError

_SWARM_MOVES = 100

Baseline = Callable[[Floats, Flags, np.random.Generator], Ints]
"""From stages x hosts rates, who may be where, and a source of chance, to a stage for each host."""


def random(rates: Floats, allowed: Flags, generator: np.random.Generator) -> Ints:
    """Any stage that fits."""
    chance = np.where(allowed, generator.random(allowed.shape), -1.0)
    return np.where(allowed.any(axis=0), chance.argmax(axis=0), -1)


def uniform(rates: Floats, allowed: Flags, generator: np.random.Generator) -> Ints:
    """The stage with the fewest hosts, in order of arrival."""
    return _join(np.ones_like(rates), allowed)


def petals(rates: Floats, allowed: Flags, generator: np.random.Generator) -> Ints:
    """The stage with the least throughput, in order of arrival.

    Source: Borzunov et al., Petals, ACL 2023 demonstrations: a server joins where throughput is least.
    """
    return _join(rates, allowed)


def swarm(rates: Floats, allowed: Flags, generator: np.random.Generator) -> Ints:
    """Uniform, then 100 times one host from the stage with the most throughput a host to the one with the least.

    Source: Ryabinin et al., SWARM Parallelism, ICML 2023, adaptive rebalancing.
    """
    stage = uniform(rates, allowed, generator)
    hosts = np.arange(len(stage))
    for _ in range(_SWARM_MOVES):
        own = np.where(stage >= 0, rates[stage, hosts], 0.0)
        totals = np.array([own[stage == number].sum() for number in range(len(rates))])
        richest, poorest = int(totals.argmax()), int(totals.argmin())
        movable = np.flatnonzero((stage == richest) & allowed[poorest])
        if richest == poorest or len(movable) < 2:
            break
        stage[generator.choice(movable)] = poorest
    return stage


BASELINES: dict[str, Baseline] = {"random": random, "uniform": uniform, "petals": petals, "swarm": swarm}


def _join(rates: Floats, allowed: Flags) -> Ints:
    totals = np.zeros(len(rates))
    stage = np.full(rates.shape[1], -1, dtype=np.int64)
    for host in range(rates.shape[1]):
        open_stages = np.flatnonzero(allowed[:, host])
        if len(open_stages):
            stage[host] = open_stages[totals[open_stages].argmin()]
            totals[stage[host]] += rates[stage[host], host]
    return stage


def shares(instance: Instance, sizes: Ints, sync_s: float, bound_tokens_per_s: float, seed: int) -> dict[str, float]:
    """What each baseline reaches of a bound, with and without admission.

    Args:
        sizes: layers of each stage.
        sync_s: with admission, hosts that would reduce their layers more slowly are left out.

    Returns:
        Shares by name; `NAME_admitted` with admission; 0 where a stage stays empty.
    """
    hosts = np.arange(instance.num_hosts)
    rates = np.stack([host_rates(instance, hosts, np.full(len(hosts), size)) for size in sizes.tolist()])
    in_memory = instance.most_layers()[None, :] >= sizes[:, None]
    lines = instance.hosts.reduce_bytes_per_s
    in_time = lines[None, :] * sync_s * (1 + 1e-9) >= sizes[:, None] * instance.work.gradient_bytes
    found = {}
    for name, place in BASELINES.items():
        for suffix, allowed in (("", in_memory), ("_admitted", in_memory & in_time)):
            stage = place(rates, allowed, np.random.default_rng(seed))
            try:
                reached = evaluate(instance, Assignment(stage, sizes)).tokens_per_s
            except RunError:
                reached = 0.0
            found[name + suffix] = reached / bound_tokens_per_s
    return found
