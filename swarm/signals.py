"""How a long-running process is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine


async def until_stopped(job: Coroutine[None, None, None], leave: Callable[[], bool] = lambda: False) -> None:
    """Run a job; SIGTERM ends it as orderly as Ctrl+C does, and is no error.

    Args:
        leave: asks the job to come to an end by itself; False where that is of no use. The second signal ends it.

    Raises:
        KeyboardInterrupt: Ctrl+C ended it.
    """
    task = asyncio.ensure_future(job)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if len(received) > 1 or not leave():
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        if received[-1] == signal.SIGINT:
            raise KeyboardInterrupt from None
