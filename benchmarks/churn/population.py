"""Peers that come and go: a steady state, by seed.

Device speeds are those of `benchmarks.planner.families`' homes (consumer GPUs, a spread of 0.6 of the mean). Boundary
tensors are compressed so far that compute limits every host, and gradients by a low-rank method (64-fold, from bf16):
no line of this kind trains a model of this size otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.planner.families import FAMILIES, make
from scheduler.planner.instance import Assignment, Floats, Instance, Ints, Regions
from scheduler.planner.intake import Measured, claims_of
from scheduler.planner.occupancy import FETCHED_SHARE

_HOME = next(family for family in FAMILIES if family.name == "home")
_BOUNDARY_RATIO, _GRADIENT_RATIO = 100.0, 64.0
_BATCH_PER_PEER = 50
"""Microbatches of 512 tokens; 10 million tokens a step for 400 peers."""
_LINE_SPREAD = 0.9
"""Of the logarithm; homes' lines differ so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """A swarm in steady state.

    Attributes:
        num_peers: on average.
        mean_life_s: of a peer; lives are exponential, joins come at random.
        load_s: to fetch one stage's state, on average over peers.
        lines_differ: whether each peer's load time follows its own line, or all are the same.
        hours: of virtual time.
    """

    num_peers: int = 400
    mean_life_s: float = 18_000.0
    load_s: float = 150.0
    lines_differ: bool = False
    hours: float = 16.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Happening:
    """A peer joins or leaves."""

    time_s: float
    name: str
    is_join: bool


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """All that happens, whatever the planner does.

    Attributes:
        instance: of the peers that are there at the beginning; one stage a layer.
        claims: of every peer that is ever there.
        happenings: in order of time.
    """

    instance: Instance
    claims: dict[str, Measured]
    happenings: tuple[Happening, ...]


def trace(churn: Churn) -> Trace:
    """Draw a swarm's history."""
    generator = np.random.default_rng([churn.seed, churn.num_peers])
    end_s = churn.hours * 3600
    num_joins = int(generator.poisson(churn.num_peers * end_s / churn.mean_life_s))
    joins_s = np.concatenate([np.zeros(churn.num_peers), np.sort(generator.uniform(0, end_s, num_joins))])
    leaves_s = joins_s + generator.exponential(churn.mean_life_s, len(joins_s))
    base = make(replace(_HOME, num_regions=1, staleness=0), len(joins_s), churn.seed)
    work = replace(
        base.work,
        boundary_ratio=_BOUNDARY_RATIO,
        gradient_ratio=_GRADIENT_RATIO,
        global_batch=_BATCH_PER_PEER * churn.num_peers,
    )
    state_bytes = FETCHED_SHARE * work.layer_state_bytes
    lines = _lines(generator, churn, len(joins_s)) * state_bytes
    all_hosts = replace(base.hosts, up_bytes_per_s=lines, down_bytes_per_s=lines)
    names = all_hosts.names
    hosts = all_hosts.take(np.arange(churn.num_peers))
    happenings = [Happening(time, name, True) for time, name in zip(joins_s.tolist(), names, strict=True) if time > 0]
    happenings += [
        Happening(time, name, False) for time, name in zip(leaves_s.tolist(), names, strict=True) if time < end_s
    ]
    instance = Instance(hosts, base.owners, Regions.unlimited(), work)
    claims = {claim.name: claim for claim in claims_of(all_hosts)}
    return Trace(instance, claims, tuple(sorted(happenings, key=lambda each: (each.time_s, each.name))))


def _lines(generator: np.random.Generator, churn: Churn, count: int) -> Floats:
    """Stage states a second that each line carries, both ways; their inverse is `load_s` on average."""
    spread = _LINE_SPREAD if churn.lines_differ else 0.0
    seconds = churn.load_s * generator.lognormal(-(spread**2) / 2, spread, count)
    lines: Floats = 1 / seconds
    return lines


def longest_first(instance: Instance, num_stages: int) -> Assignment:
    """Equal stages, the fastest hosts first, each to the stage with the least speed."""
    stage: Ints = np.zeros(instance.num_hosts, dtype=np.int64)
    totals = np.zeros(num_stages)
    for host in np.argsort(instance.hosts.layer_s, kind="stable").tolist():
        stage[host] = totals.argmin()
        totals[stage[host]] += 1 / instance.hosts.layer_s[host]
    sizes = np.full(num_stages, instance.work.num_layers // num_stages, dtype=np.int64)
    return Assignment(stage, sizes)


def ceilings(trace_: Trace, churn: Churn, rates: dict[str, float], warm_up_s: float) -> tuple[float, float]:
    """What a swarm could reach without copies, as a share of its bound, averaged over time.

    Returns:
        Of a swarm that is always level, and of a clairvoyant one.

    A level one does not know who leaves. Whoever replaces a peer that left needs `load_s`, so its stage lacks it for so
    long, however cleverly the others move; and a peer that joined lacks as long. It is no proof: keeping stages of fast
    peers above level may gain a little. Stages annealed for the expected slowest one reached 0.882 on deaths that they
    were not annealed for, level ones 0.879 (400 peers, 32 stages, 5 h lives, 150 s loads).

    A clairvoyant one has a replacement ready whenever a peer leaves, and all others move in no time: it lacks those
    that joined, for `load_s`. Nobody who follows the trace can have more.
    """
    num_stages = trace_.instance.work.num_layers
    live = {name: rates[name] for name in trace_.instance.hosts.names}
    changes: list[tuple[float, Happening | None]] = [(each.time_s, each) for each in trace_.happenings]
    changes += [(each.time_s + churn.load_s, None) for each in trace_.happenings]
    recent: list[Happening] = []
    now_s, level_s, clairvoyant_s = 0.0, 0.0, 0.0
    end_s = churn.hours * 3600
    for time_s, happening in sorted(changes, key=lambda change: change[0]):
        until_s = min(time_s, end_s)
        counted_s = until_s - max(now_s, warm_up_s)
        if counted_s > 0:
            level = sum(live.values()) / num_stages
            loading = sum(rates[each.name] for each in recent if each.is_join and each.name in live) / num_stages
            lacking = max((rates[each.name] for each in recent if not each.is_join), default=0.0)
            level_s += counted_s * max(0.0, 1 - (loading + lacking) / level)
            clairvoyant_s += counted_s * (1 - loading / level)
        now_s = until_s
        if happening is None:
            recent = [each for each in recent if each.time_s + churn.load_s > now_s]
        else:
            recent.append(happening)
            if happening.is_join:
                live[happening.name] = rates[happening.name]
            else:
                del live[happening.name]
    return level_s / (end_s - warm_up_s), clairvoyant_s / (end_s - warm_up_s)
