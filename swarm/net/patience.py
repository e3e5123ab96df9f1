"""How long others are waited for: for ever by a member that was in the run before, a little by who has an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from swarm.errors import PeerUnavailable

T = TypeVar("T")

_RETRY_S = 2.0


async def until_reached(attempt: Callable[[], Awaitable[T]], say: Callable[[str], None]) -> T:
    """Try again while nobody can be reached, however long that takes.

    Args:
        attempt: raises PeerUnavailable where nobody can.
        say: tells people what is waited for.
    """
    while True:
        try:
            return await attempt()
        except PeerUnavailable as error:
            say(f"waiting for the run's other members: {error.problem}")
            await asyncio.sleep(_RETRY_S)


async def settle(
    tasks: Collection[asyncio.Task[T]],
    is_enough: Callable[[asyncio.Task[T]], bool],
    grace_s: Callable[[float], float],
) -> None:
    """Wait until one of several is enough, and then a little for the others: some may sleep. Who is later is cancelled.

    Args:
        is_enough: asked for each that is done, well or not.
        grace_s: for the others, by the seconds that the first took that was enough.
    """
    began_s, until_s = time.monotonic(), None
    waiting = set(tasks)
    try:
        while waiting:
            left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return
            if until_s is None and any(is_enough(task) for task in done):
                until_s = time.monotonic() + grace_s(time.monotonic() - began_s)
    finally:
        for task in waiting:
            task.cancel()
