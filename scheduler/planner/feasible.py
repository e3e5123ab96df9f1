"""What hosts can hold at all: refused, or the smallest plans there are."""

from __future__ import annotations

import numpy as np

from scheduler.planner.instance import Assignment, Instance
from swarm.errors import ModelTooLarge, RunError


def check_possible(instance: Instance) -> None:
    """Refuse what no plan can do.

    Raises:
        ModelTooLarge: the hosts' memory does not hold the trunk; says how much is missing.
        RunError: no owner, or more stages asked for than hosts or layers.
    """
    work = instance.work
    if not instance.num_hosts or not instance.owners.names:
        raise RunError(
            f"{instance.num_hosts} hosts and {len(instance.owners.names)} owners are here", "wait for more to join"
        )
    held = int(instance.most_layers().sum())
    limit = min(work.num_layers, instance.num_hosts)
    # A stage without a host misses the memory for a layer at least.
    short = max(min(work.num_stages, work.num_layers) - instance.num_hosts, work.num_layers - held)
    if work.num_stages > limit:
        raise RunError(
            f"{work.num_stages} stages were asked for, but {instance.num_hosts} hosts and {work.num_layers} trunk "
            f"layers allow {limit}" + (f"; {_mib(instance, short)} are missing" if short > 0 else ""),
            "ask for fewer stages",
        )
    if held < work.num_layers:
        raise ModelTooLarge(
            f"all {instance.num_hosts} hosts together hold {held} of the trunk's {work.num_layers} layers; "
            f"{_mib(instance, short)} are missing",
            "let more hosts join, raise their memory limits, or make the model smaller",
        )


def fewest_stages(instance: Instance) -> int:
    """That hold the trunk."""
    held = np.cumsum(np.sort(instance.most_layers())[::-1])
    return int(np.searchsorted(held, instance.work.num_layers)) + 1


def alone(instance: Instance, number: int) -> Assignment:
    """The hosts with the most memory, each alone in its stage.

    Raises:
        RunError: so many stages do not hold the trunk.
    """
    layers = instance.work.num_layers
    most = instance.most_layers()
    order = np.argsort(-most, kind="stable")[:number]
    held = int(most[order].sum())
    if held < layers or most[order[-1]] < 1:
        raise RunError(
            f"{number} stages cannot hold the trunk: the {number} largest hosts hold {held} of its {layers} layers"
            + (f"; {_mib(instance, layers - held)} are missing" if held < layers else ""),
            "ask for another number of stages, or let hosts with more memory join",
        )
    sizes = np.ones(number, dtype=np.int64)
    for row in range(number):
        sizes[row] += min(int(most[order[row]]) - 1, layers - int(sizes.sum()))
    stage = np.full(instance.num_hosts, -1, dtype=np.int64)
    stage[order] = np.arange(number)
    return Assignment(stage, sizes)


def _mib(instance: Instance, layers: int) -> str:
    """The memory of so many layers, with one microbatch in flight."""
    return f"{layers * (instance.work.layer_state_bytes + instance.work.graph_bytes) / 2**20:,.0f} MiB"
