"""A first planner: balance compute, respect memory, count transfers and the all-reduce.

For every number of stages, hosts go to the stage with the least speed, fastest first, and two to every stage where
there are enough; then layers go to stages in proportion, under each stage's smallest memory; the number of stages with
the shortest predicted step wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scheduler.planner.problem import HostFacts, Placement, Problem
from swarm.errors import ModelTooLarge, RunError
from swarm.model.spans import LayerSpan

_Group = list[HostFacts]
_SAFE_REPLICAS = 2


def balanced(problem: Problem) -> Placement:
    """See `Planner`.

    Raises:
        RunError: more stages asked for than hosts or layers, or no owner.
        ModelTooLarge: no placement fits the hosts' memory.
    """
    hosts = tuple(host for host in problem.hosts if host.memory_bytes >= problem.layer_bytes(len(problem.owners)))
    if problem.hosts and problem.owners and not hosts:
        raise _too_large(problem)
    problem = replace(problem, hosts=hosts)  # the others stand by: not one layer fits them
    num_layers, num_hosts = problem.trunk.num_layers, len(problem.hosts)
    if not problem.hosts or not problem.owners:
        raise RunError(f"{num_hosts} hosts and {len(problem.owners)} owners are here", "wait for more to join")
    most = min(num_layers, num_hosts)
    if problem.num_stages > most:
        raise RunError(
            f"{problem.num_stages} stages were asked for, but {num_hosts} hosts and {num_layers} trunk layers "
            f"allow {most}",
            "ask for fewer stages",
        )
    wanted = [problem.num_stages] if problem.num_stages else range(1, most + 1)
    found = [placement for stages in wanted if (placement := _with_stages(problem, stages)) is not None]
    if not found:
        raise _too_large(problem)
    return max(found, key=lambda placement: (placement.tokens_per_s, -len(placement.spans)))


def _with_stages(problem: Problem, num_stages: int) -> Placement | None:
    """The best placement on so many stages; a smaller window where memory asks for it."""
    groups = _group(problem.hosts, num_stages)
    for window in range(_full_window(problem), 0, -1):
        layer_bytes = problem.layer_bytes(window * len(problem.owners))
        most_layers = [min(host.memory_bytes for host in group) // layer_bytes for group in groups]
        sizes = _sizes(problem.trunk.num_layers, [_speed(group) for group in groups], most_layers)
        if sizes is not None:
            return _placement(problem, groups, sizes, window)
    return None


def _group(hosts: Sequence[HostFacts], num_stages: int) -> list[_Group]:
    """Fastest first, to the slowest stage; but first two to every stage, so that one death stops nothing."""
    least = min(_SAFE_REPLICAS, len(hosts) // num_stages)
    groups: list[_Group] = [[] for _ in range(num_stages)]
    for host in sorted(hosts, key=lambda host: (host.layer_s, host.peer)):
        min(groups, key=lambda group: (len(group) >= least, _speed(group))).append(host)
    return groups


def _speed(group: _Group) -> float:
    """Layers a second."""
    return sum(1 / host.layer_s for host in group)


def _sizes(num_layers: int, speeds: Sequence[float], most: Sequence[int]) -> list[int] | None:
    """Layers of each stage: one each, then always to the stage that stays fastest with one more."""
    sizes = [1] * len(speeds)
    if min(most) < 1:
        return None
    for _ in range(num_layers - len(speeds)):
        open_stages = [stage for stage, size in enumerate(sizes) if size < most[stage]]
        if not open_stages:
            return None
        sizes[min(open_stages, key=lambda stage: (sizes[stage] + 1) / speeds[stage])] += 1
    return sizes


def _placement(problem: Problem, groups: list[_Group], sizes: list[int], window: int) -> Placement:
    spans = []
    first = problem.trunk.first
    for size in sizes:
        spans.append(LayerSpan(first, first + size))
        first += size
    weights = tuple(
        tuple(_rate(problem, host, size) for host in group) for group, size in zip(groups, sizes, strict=True)
    )
    step_s = problem.global_batch / min(sum(rates) for rates in weights)
    step_s += sum(1 / max(rates) for rates in weights)  # filling the pipeline, once a step
    step_s += max(_reduce_s(problem, group, size) for group, size in zip(groups, sizes, strict=True))
    return Placement(
        spans=tuple(spans),
        replicas=tuple(tuple(host.peer for host in group) for group in groups),
        weights=weights,
        window=window,
        tokens_per_s=problem.global_batch * problem.microbatch_tokens / step_s,
    )


def _rate(problem: Problem, host: HostFacts, num_layers: int) -> float:
    """Microbatches a second: compute, or an activation and a gradient out, whichever is slower."""
    return 1 / max(num_layers * host.layer_s, 2 * problem.boundary_bytes / host.bytes_per_s)


def _reduce_s(problem: Problem, group: _Group, num_layers: int) -> float:
    """A butterfly all-reduce at the slowest member's rate."""
    num_bytes = 4 * problem.layer_parameters * num_layers
    return 2 * num_bytes * (len(group) - 1) / len(group) / min(host.bytes_per_s for host in group)


def _full_window(problem: Problem) -> int:
    """Microbatches an owner needs in flight to keep every host busy: one computing and one waiting each."""
    wanted = math.ceil(2 * len(problem.hosts) / len(problem.owners))
    return max(1, min(wanted, math.ceil(problem.global_batch / len(problem.owners))))


def _too_large(problem: Problem) -> ModelTooLarge:
    layer_bytes = problem.layer_bytes(len(problem.owners))
    needed = layer_bytes * problem.trunk.num_layers
    usable = sum(host.memory_bytes // layer_bytes * layer_bytes for host in problem.hosts)
    return ModelTooLarge(
        f"the trunk's {problem.trunk.num_layers} layers need {needed / 2**20:,.0f} MiB, but all "
        f"{len(problem.hosts)} hosts together can hold {usable / 2**20:,.0f} MiB of whole layers",
        "let more hosts join, raise their memory limits, or make the model smaller",
    )
