"""A deadline passes for who does not answer, not for who slept while the answer came."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from swarm.net.awake import awake_timeout

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


@LOOPS
def test_without_an_answer_it_passes(run: Callable[[Awaitable[None]], None]) -> None:
    async def body() -> None:
        with pytest.raises(TimeoutError):
            async with awake_timeout(0.01):
                await asyncio.Event().wait()

    run(body())


@LOOPS
def test_a_loop_that_did_not_run_gives_the_answer_its_time(run: Callable[[Awaitable[None]], None]) -> None:
    """1.5 seconds are slept, and the answer is read right after: by the clock all deadlines were over by then."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        answer = asyncio.Event()
        loop.call_later(0.05, time.sleep, 1.5)
        loop.call_later(0.1, loop.call_later, 0.05, answer.set)
        async with awake_timeout(0.6), awake_timeout(0.5):
            await answer.wait()

    run(body())


@LOOPS
def test_sleep_only_puts_it_off(run: Callable[[Awaitable[None]], None]) -> None:
    async def body() -> None:
        began_s = time.monotonic()
        asyncio.get_running_loop().call_later(0.05, time.sleep, 1.5)
        with pytest.raises(TimeoutError):
            async with awake_timeout(0.6):
                await asyncio.Event().wait()
        assert time.monotonic() - began_s > 1.5 + 0.1, "what was left of it when the sleep began"

    run(body())
