"""The dashboard beside a scheduler: a process of its own, so that nothing in it can delay or end training."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

_END_S = 5.0


class Dashboard:
    """Use it as a context manager: leaving it ends the process.

    Args:
        run_dir: the run's folder.
        address: `[HOST:]PORT`; nothing is started where it is empty.
        tell: hears of its address, or why there is none.
    """

    def __init__(self, run_dir: Path, address: str, tell: Callable[[dict[str, Any]], None]) -> None:
        self._run_dir = run_dir
        self._address = address
        self._tell = tell
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._address:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "scheduler.dashboard", str(self._run_dir), self._address),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
            self._watching = asyncio.create_task(self._watch(self._process))
        return self

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            with contextlib.suppress(ValueError):
                self._tell(json.loads(line))
        status = await process.wait()
        self._tell({"event": "warning", "problem": f"the dashboard ended with status {status}; training goes on"})

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
