"""Gathering one consistent checkpoint from the members' snapshots."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch

from swarm.config import RunConfig
from swarm.errors import CheckpointCorrupt, CheckpointError, SwarmError
from swarm.net.endpoint import Endpoint
from swarm.plan import Plan
from swarm.training.checkpoint import CheckpointWriter
from swarm.wire.messages import FetchState, ListState, PartInfo, StateList


async def collect(
    endpoint: Endpoint,
    config: RunConfig,
    plan: Plan,
    lost: frozenset[str],
    num_steps: int,
    cursors: Mapping[str, int],
    tokenizer_json: str,
    root: Path,
) -> Path:
    """Fetch every group's snapshot after `num_steps` steps from one of its members, and write a checkpoint.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: a group without a member that has the snapshot, or a disk that refuses.
    """
    writer = CheckpointWriter(root, config, tokenizer_json)
    with writer:
        for stage, members in enumerate(plan.groups):
            parts = await _fetch_group(endpoint, stage, [peer for peer in members if peer not in lost], num_steps)
            for name, data in parts.items():
                await asyncio.to_thread(writer.add_part, name, safetensors.torch.load(data))
        return await asyncio.to_thread(writer.finish, num_steps, cursors)


async def _fetch_group(endpoint: Endpoint, stage: int, members: list[str], num_steps: int) -> dict[str, bytes]:
    problem = "it has no members left"
    for peer in members:
        try:
            reply, _ = await endpoint.request(peer, ListState(step=num_steps, stage=stage))
            if not isinstance(reply, StateList):
                continue
            return {part.name: await _fetch_part(endpoint, peer, stage, num_steps, part) for part in reply.parts}
        except SwarmError as error:
            problem = error.problem
    raise CheckpointError(
        f"stage {stage} has no snapshot after step {num_steps} ({problem})", "wait for the next checkpoint"
    )


async def _fetch_part(endpoint: Endpoint, peer: str, stage: int, num_steps: int, part: PartInfo) -> bytes:
    data = bytearray()
    while len(data) < part.num_bytes:
        request = FetchState(step=num_steps, stage=stage, name=part.name, offset=len(data))
        _, chunk = await endpoint.request(peer, request)
        if not chunk:
            break
        data += chunk
    content = bytes(data)
    if len(content) != part.num_bytes or hashlib.sha256(content).hexdigest() != part.sha256:
        raise CheckpointCorrupt(f"{peer} sent a {part.name} that does not match its own hash", "ask another replica")
    return content
