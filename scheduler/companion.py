"""A process beside a scheduler that reads the run's folder: nothing in it can delay or end training."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self

from swarm.local.fleet import end_with_parent

_END_S = 10.0


class Companion:
    """Use it as a context manager: leaving it ends the process.

    Args:
        name: in words.
        arguments: Python's, such as `-m`, a module and the run's folder; nothing is started without any.
        tell: hears what it tells, or that it ended.
    """

    def __init__(self, name: str, arguments: Sequence[str], tell: Callable[[dict[str, Any]], None]) -> None:
        self._name = name
        self._arguments = arguments
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._arguments:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, *self._arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                preexec_fn=end_with_parent,  # not by itself later: we may be killed while it loads its libraries
            )
            self._watching = asyncio.create_task(self._watch(self._process))
        return self

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            with contextlib.suppress(ValueError):
                self._tell(json.loads(line))
        status = await process.wait()
        self._tell({"event": "warning", "problem": f"the {self._name} ended with status {status}; training goes on"})

    async def __aexit__(self, *exception: object) -> None:
        if self._process is None or self._watching is None:
            return
        self._watching.cancel()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _END_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
