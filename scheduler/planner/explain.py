"""Why a plan is as it is: where each stage's time goes, what keeps a host from helping, what one more would bring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from scheduler.planner.evaluator import Evaluation, evaluate, host_rates, step_seconds
from scheduler.planner.heuristic import Certified
from scheduler.planner.instance import Assignment, Floats, Hosts, Instance, Ints
from swarm.errors import ModelTooLarge

_BADLY_USED = 0.5
"""A host that computes for less of the time is worth a word."""
_GAIN = 1e-6
"""Of the plan's tokens per second: less is none."""

Reason = Literal["memory", "uplink", "links", "no_stage_gains", "would_gain"]
"""A standby's memory holds no stage's layers; its line would lengthen every all-reduce by more than it brings; its
connections to others are too thin; no stage it fits in gains by it; or it would help, and the plan misses that."""

Limit = Literal["line", "memory", "others"]
"""A used host waits for its own line, for memory of microbatches in flight, or for slower stages."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """Where a step goes, for one stage; without staleness the parts sum up to `step_s`.

    Attributes:
        layers, replicas: of the stage.
        compute_s, line_s, memory_s: the batch at the stage's full rate, by what limits its hosts.
        fill_s: filling and draining the pipeline.
        reduce_s: its all-reduce; overlaps the rest where staleness is 1.
        idle_s: waiting for other stages.
    """

    stage: int
    layers: int
    replicas: int
    compute_s: float
    line_s: float
    memory_s: float
    fill_s: float
    reduce_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Standby:
    """A host that the plan leaves out.

    Attributes:
        stage: where it would do best; -1 where it fits nowhere.
        longer_reduce_s: by how much it would lengthen the all-reduces of a step there.
        gain_tokens_per_s: of the whole swarm, were it there; negative where it would be a loss.
    """

    name: str
    reason: Reason
    stage: int
    longer_reduce_s: float
    gain_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class BadlyUsed:
    """A host of the plan that computes for less than half of the time in which microbatches stream.

    Attributes:
        busy: share of that time in which it computes.
    """

    name: str
    stage: int
    limit: Limit
    busy: float


@dataclass(frozen=True, slots=True)
class Explained:
    """A plan, explained."""

    stages: tuple[StageTime, ...]
    standbys: tuple[Standby, ...]
    badly_used: tuple[BadlyUsed, ...]


def explain(instance: Instance, plan: Certified) -> Explained:
    """Explain a plan of an instance. Costs an evaluation for each standby."""
    assignment, found = plan.assignment, plan.evaluation
    used = np.flatnonzero(assignment.stage >= 0)
    standbys = np.flatnonzero(assignment.stage < 0)
    limits = _limits(instance, used, assignment, found)
    return Explained(
        stages=tuple(
            _stage_time(instance, used, assignment, found, limits, stage) for stage in range(assignment.num_stages)
        ),
        standbys=tuple(_standby(instance, assignment, found, host) for host in standbys.tolist()),
        badly_used=tuple(_badly_used(instance, used, assignment, found, limits)),
    )


def what_if(instance: Instance, plan: Certified, extra: Hosts) -> float:
    """What one more host would bring, the others staying where they are.

    Args:
        extra: one host.

    Returns:
        Tokens per second; 0 where it had better stand by.
    """
    old = instance.hosts
    hosts = Hosts(
        (*old.names, *extra.names),
        np.append(old.memory_bytes, extra.memory_bytes),
        np.append(old.layer_s, extra.layer_s),
        np.append(old.overhead_s, extra.overhead_s),
        np.append(old.up_bytes_per_s, extra.up_bytes_per_s),
        np.append(old.down_bytes_per_s, extra.down_bytes_per_s),
        np.append(old.region, extra.region),
    )
    grown = replace(instance, hosts=hosts)
    stage = np.append(plan.assignment.stage, -1)
    now = plan.evaluation.tokens_per_s
    reached = (
        _tokens_per_s(grown, _placed(Assignment(stage, plan.assignment.sizes), len(stage) - 1, number))
        for number in range(plan.assignment.num_stages)
    )
    return max(0.0, max(tokens - now for tokens in reached))


def _placed(plan: Assignment, host: int, stage: int) -> Assignment:
    places = plan.stage.copy()
    places[host] = stage
    return Assignment(places, plan.sizes)


def _tokens_per_s(instance: Instance, plan: Assignment) -> float:
    try:
        return evaluate(instance, plan).tokens_per_s
    except ModelTooLarge:
        return 0.0


def _limits(instance: Instance, used: Ints, plan: Assignment, found: Evaluation) -> tuple[Limit, ...]:
    """Of each host used: what keeps it from computing all the time; `others` where nothing of its own does."""
    hosts = instance.hosts
    layers = plan.sizes[plan.stage[used]]
    compute_rate = 1 / (layers * hosts.layer_s[used] + hosts.overhead_s[used])
    line_rate = host_rates(instance, used, layers)
    own = found.host_rates[used]

    def limit(rate: float, line: float, compute: float) -> Limit:
        if rate < line * (1 - 1e-6):
            return "memory"
        return "line" if line < compute * (1 - 1e-6) else "others"

    return tuple(map(limit, own.tolist(), line_rate.tolist(), compute_rate.tolist()))


def _stage_time(
    instance: Instance, used: Ints, plan: Assignment, found: Evaluation, limits: tuple[Limit, ...], stage: int
) -> StageTime:
    work = instance.work
    members = np.flatnonzero(plan.stage[used] == stage)
    total = float(found.stage_rates[stage])
    stream_s = work.global_batch / total
    parts = {"others": 0.0, "line": 0.0, "memory": 0.0}
    for member in members.tolist():
        parts[limits[member]] += stream_s * float(found.host_rates[used[member]]) / total
    reduce_s = float(found.stage_reduce_s[stage])
    return StageTime(
        stage=stage,
        layers=int(plan.sizes[stage]),
        replicas=len(members),
        compute_s=parts["others"],
        line_s=parts["line"],
        memory_s=parts["memory"],
        fill_s=found.fill_s,
        reduce_s=reduce_s,
        idle_s=found.step_s - step_seconds(work.staleness, stream_s + found.fill_s, reduce_s),
    )


def _standby(instance: Instance, plan: Assignment, found: Evaluation, host: int) -> Standby:
    """Where it would do best, by its all-reduce first and the stage's need second; and why it is not there."""
    name = instance.hosts.names[host]
    fitting = np.flatnonzero(plan.sizes <= instance.most_layers()[host])
    if not len(fitting):
        return Standby(name, "memory", -1, 0.0, 0.0)
    longer_s = np.maximum(_reduce_with(instance, plan, host)[fitting] - found.sync_s, 0.0)
    best = fitting[np.lexsort((found.stage_rates[fitting], longer_s.round(6)))[0]]
    joined = evaluate(instance, _placed(plan, host, int(best)))
    gain = joined.tokens_per_s - found.tokens_per_s
    reason: Reason = "no_stage_gains"
    if gain > _GAIN * found.tokens_per_s:
        reason = "would_gain"
    elif joined.sync_s > found.sync_s * (1 + _GAIN):
        reason = "uplink"
    elif joined.limit == "links" or joined.fill_s > found.fill_s * (1 + _GAIN):
        reason = "links"
    return Standby(name, reason, int(best), joined.sync_s - found.sync_s, gain)


def _reduce_with(instance: Instance, plan: Assignment, host: int) -> Floats:
    """Each stage's all-reduce with one more member, latencies left out."""
    lines = instance.hosts.reduce_bytes_per_s
    used = np.flatnonzero(plan.stage >= 0)
    stage = plan.stage[used]
    slowest = np.full(plan.num_stages, float(lines[host]))
    np.minimum.at(slowest, stage, lines[used])
    sums = np.bincount(stage, weights=lines[used], minlength=plan.num_stages) + float(lines[host])
    counts = np.bincount(stage, minlength=plan.num_stages) + 1
    seconds = plan.sizes * instance.work.gradient_bytes * np.maximum(1 / slowest, (2 * counts - 2) / sums)
    return seconds.astype(np.float64)


def _badly_used(
    instance: Instance, used: Ints, plan: Assignment, found: Evaluation, limits: tuple[Limit, ...]
) -> list[BadlyUsed]:
    hosts = instance.hosts
    stage = plan.stage[used]
    compute_s = plan.sizes[stage] * hosts.layer_s[used] + hosts.overhead_s[used]
    # A stage that is faster than the pipeline leaves its hosts idle in proportion.
    busy = found.host_rates[used] * (found.rate / found.stage_rates[stage]) * compute_s
    return [
        BadlyUsed(hosts.names[used[row]], int(stage[row]), limits[row], float(busy[row]))
        for row in np.flatnonzero(busy < _BADLY_USED).tolist()
    ]
