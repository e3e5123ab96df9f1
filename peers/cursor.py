"""Where an owner is in its shard, on disk: a restart neither repeats nor skips a committed sample."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from swarm.durable import replacing
from swarm.errors import ConfigError


class CursorFile:
    """The first microbatch of the shard that no committed step has used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted = -1
        self._saving: asyncio.Task[None] | None = None

    def load(self) -> int:
        """What was saved last; 0 for a new shard.

        Raises:
            ConfigError: the file is damaged.
        """
        if not self._path.exists():
            return 0
        try:
            cursor = json.loads(self._path.read_bytes())["next_cursor"]
        except (OSError, ValueError, KeyError, TypeError):
            cursor = -1
        if type(cursor) is not int or cursor < 0:
            raise ConfigError(f"{self._path} is damaged", "restore it, or remove it to read the shard from its start")
        return cursor

    def save(self, cursor: int) -> None:
        """Write in the background; only the newest of several waiting ones is written."""
        self._wanted = cursor
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save())

    async def close(self) -> None:
        """Wait for the newest to be on the disk."""
        if self._saving is not None:
            await self._saving

    async def _save(self) -> None:
        written = -1
        while written != self._wanted:
            written = self._wanted
            await asyncio.to_thread(self._write, written)

    def _write(self, cursor: int) -> None:
        with replacing(self._path) as file:
            file.write(json.dumps({"next_cursor": cursor}).encode())
