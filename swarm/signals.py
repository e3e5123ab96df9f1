"""How a long-running process is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine


async def until_stopped(job: Coroutine[None, None, None]) -> None:
    """Run a job; SIGTERM ends it as orderly as Ctrl+C does, and is no error."""
    task = asyncio.ensure_future(job)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
