"""Background jobs that belong to one object."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class TaskSet:
    """Keeps jobs alive while they run, and ends them together.

    A job that fails ends alone: whoever waits for its effect has a deadline. The event loop's exception handler tells.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: Coroutine[None, None, None]) -> None:
        """Run a job in the background."""
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    async def close(self) -> None:
        """Cancel what still runs, and wait for it."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "a background job failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)


async def beside(main: Coroutine[None, None, T], *jobs: Coroutine[None, None, None]) -> T:
    """Run `main`, and the jobs as long as it runs; an error in one of them ends `main` and is raised."""
    tasks = [asyncio.create_task(job) for job in jobs]
    running: asyncio.Task[T] = asyncio.create_task(main)
    try:
        await asyncio.wait([running, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        return await running
    finally:
        running.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(running, *tasks, return_exceptions=True)


async def unless(main: Coroutine[None, None, T], called_off: asyncio.Event) -> T | None:
    """Run `main` to its end, or until it is called off: None then."""
    running = asyncio.create_task(main)
    waiting = asyncio.create_task(called_off.wait())
    try:
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        return running.result() if running.done() else None
    finally:
        running.cancel()
        waiting.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
