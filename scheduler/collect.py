"""Gathering one consistent checkpoint from the members' copies, in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from scheduler.instructions import Applied
from scheduler.office import Office
from swarm.errors import CheckpointError, SwarmError
from swarm.model.parts import parts_of
from swarm.net.state import StateFetch
from swarm.training.checkpoint import CheckpointWriter, prune, read_part

KEPT_CHECKPOINTS = 3
"""Older ones go: a run goes on from the newest, and from the one before if that is damaged."""


class Collector:
    """Checkpoints of one term.

    Args:
        office: fetches, and has the folder.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether members still need their copies for one."""
        return any(not task.done() for task in self._tasks.values())

    def start(self, applied: Applied, lost: frozenset[str], cursors: Mapping[str, int]) -> None:
        """Every member holds its copy.

        Args:
            applied: the step, and the plan that it ran under.
            lost: peers that need not be asked.
            cursors: of now: the next step may be committed while this one is fetched.
        """
        task = asyncio.create_task(self._collect(applied, lost, dict(cursors)))
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        self._tasks[applied.num_steps] = task

    async def last(self) -> None:
        """Wait for all of them; raises CheckpointError where the last one was not written."""
        for num_steps in sorted(self._tasks):
            await asyncio.gather(self._tasks[num_steps], return_exceptions=num_steps != max(self._tasks))

    def cancel(self) -> None:
        """The term is over."""
        for task in self._tasks.values():
            task.cancel()

    async def _collect(self, applied: Applied, lost: frozenset[str], cursors: Mapping[str, int]) -> None:
        office = self._office
        try:
            folder = await self._written(applied, lost, cursors)
        except SwarmError as error:
            office.warn(str(error))
            raise
        await asyncio.to_thread(prune, office.run_dir.checkpoints, KEPT_CHECKPOINTS)
        office.status.checkpoint = str(folder)
        office.tell({"event": "checkpoint", "step": applied.num_steps, "folder": str(folder)})

    async def _written(self, applied: Applied, lost: frozenset[str], cursors: Mapping[str, int]) -> Path:
        office, plan, layout = self._office, applied.plan, self._office.layout
        tokenizer_json = office.run_dir.tokenizer_of(office.config).to_json()
        with CheckpointWriter(office.run_dir.checkpoints, office.config, tokenizer_json) as writer:
            for group, members in enumerate(plan.groups):
                span = plan.span_of(group)
                model, optimizer = (
                    parts_of(kind, span, layout.trunk, layout.num_layers) for kind in ("model", "optimizer")
                )
                fetch = StateFetch(office.endpoint, applied.num_steps, model, layout.most_part_bytes, optimizer)
                try:
                    parts = await fetch.run([peer for peer in members if peer not in lost])
                except SwarmError as error:
                    raise CheckpointError(
                        f"stage {group} has no copy after step {applied.num_steps} ({error.problem})",
                        "wait for the next checkpoint",
                    ) from None
                for name, data in parts.items():
                    await asyncio.to_thread(writer.add_part, name, read_part(name, data))
            return await asyncio.to_thread(writer.finish, applied.num_steps, cursors)
