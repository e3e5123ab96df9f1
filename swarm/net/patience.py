"""Waiting for others to come back: what a member does that was in the run before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
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
