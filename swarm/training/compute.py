"""The one thread that touches modules and optimizers, and the order in which it works."""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import torch

from swarm.limits import limit_of

T = TypeVar("T")


class Priority(enum.IntEnum):
    """Lower runs first: finishing a microbatch frees memory, starting one takes it."""

    STEP = 0
    BACKWARD = 0
    LOSS = 1
    FORWARD = 2


class Compute:
    """Runs jobs on a thread of its own, by priority, first come first served within one.

    Args:
        threads: torch's threads for matrix products.
    """

    def __init__(self, threads: int) -> None:
        self._jobs: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ready = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, args=(threads,), name="compute", daemon=True)
        self._thread.start()

    async def run(self, priority: Priority, function: Callable[..., T], *arguments: Any) -> T:
        """Run `function(*arguments)` on the compute thread and return what it returns or raises.

        Raises:
            MachineLimit: there is too little memory for it.
        """
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                future.set_exception(limit_of(error) or error)

        with self._ready:
            heapq.heappush(self._jobs, (int(priority), next(self._order), job))
            self._ready.notify()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish the job at hand and stop."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()

    def _work(self, threads: int) -> None:
        torch.set_num_threads(threads)
        while True:
            with self._ready:
                while not self._jobs and not self._closing:
                    self._ready.wait()
                if self._closing:
                    return
                _, _, job = heapq.heappop(self._jobs)
            job()
