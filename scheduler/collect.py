"""Gathering one consistent checkpoint from the members' copies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from swarm.config import RunConfig
from swarm.errors import CheckpointError, SwarmError
from swarm.model.blueprint import Layout
from swarm.model.parts import parts_of
from swarm.net.endpoint import Endpoint
from swarm.net.state import StateFetch
from swarm.plan import Plan
from swarm.training.checkpoint import CheckpointWriter, read_part


async def collect(
    endpoint: Endpoint,
    config: RunConfig,
    layout: Layout,
    plan: Plan,
    lost: frozenset[str],
    num_steps: int,
    cursors: Mapping[str, int],
    tokenizer_json: str,
    root: Path,
) -> Path:
    """Fetch every group's copy of the state after `num_steps` steps from its members, and write a checkpoint.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: a group without a member that has the copy, or a disk that refuses.
    """
    writer = CheckpointWriter(root, config, tokenizer_json)
    with writer:
        for group, members in enumerate(plan.groups):
            span = plan.span_of(group)
            model, optimizer = (
                parts_of(kind, span, layout.trunk, layout.num_layers) for kind in ("model", "optimizer")
            )
            fetch = StateFetch(endpoint, num_steps, model, layout.most_part_bytes, optimizer)
            try:
                parts = await fetch.run([peer for peer in members if peer not in lost])
            except SwarmError as error:
                raise CheckpointError(
                    f"stage {group} has no copy after step {num_steps} ({error.problem})",
                    "wait for the next checkpoint",
                ) from None
            for name, data in parts.items():
                await asyncio.to_thread(writer.add_part, name, read_part(name, data))
        return await asyncio.to_thread(writer.finish, num_steps, cursors)
