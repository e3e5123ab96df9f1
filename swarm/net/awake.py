"""Deadlines that count only the time in which this process was awake.

A laptop that slept, or an event loop that was held up, finds all its deadlines passed at once, before it has read the
answers that lie there: that says nothing about those who were asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from weakref import WeakKeyDictionary

_TICK_S = 0.2
"""Less sleep than this is not noticed."""


class _Watch:
    """Looks at one event loop while somebody waits on it, and puts off all deadlines by what it slept."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Timeout] = set()
        self._next: asyncio.TimerHandle | None = None

    def add(self, deadline: asyncio.Timeout) -> None:
        self._waiting.add(deadline)
        if self._next is None:
            self._look_again(asyncio.get_running_loop())

    def remove(self, deadline: asyncio.Timeout) -> None:
        self._waiting.discard(deadline)
        if not self._waiting and self._next is not None:
            self._next.cancel()
            self._next = None

    def _tick(self, before_s: float) -> None:
        """Runs before every deadline that is later: timers run in the order of their times."""
        loop = asyncio.get_running_loop()
        slept_s = loop.time() - before_s - _TICK_S
        if slept_s > _TICK_S:
            for deadline in self._waiting:
                when_s = deadline.when()
                if when_s is not None and not deadline.expired():
                    deadline.reschedule(when_s + slept_s)
        self._look_again(loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next = loop.call_later(_TICK_S, self._tick, loop.time())


_WATCHES: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()


@contextlib.asynccontextmanager
async def awake_timeout(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, but time in which the loop did not run does not count.

    Args:
        seconds: awake.

    Raises:
        TimeoutError: the body took longer.
    """
    loop = asyncio.get_running_loop()
    watch = _WATCHES.get(loop)
    if watch is None:
        watch = _WATCHES[loop] = _Watch()
    async with asyncio.timeout(seconds) as deadline:
        watch.add(deadline)
        try:
            yield
        finally:
            watch.remove(deadline)
