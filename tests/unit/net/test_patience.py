"""Several are asked, and some of them sleep."""

from __future__ import annotations

import asyncio

from swarm.net.patience import settle


async def _answer(word: str, *after: asyncio.Event) -> str:
    for event in after:
        await event.wait()
    if not word:
        raise ValueError("no answer")
    return word


def _is_good(task: asyncio.Task[str]) -> bool:
    return task.exception() is None and task.result() == "good"


def test_who_sleeps_is_not_waited_for_once_one_is_enough() -> None:
    async def body() -> None:
        never = asyncio.Event()
        tasks = [asyncio.create_task(each) for each in (_answer("good"), _answer("bad"), _answer("good", never))]
        await settle(tasks, _is_good, lambda took_s: 0.0)
        assert [task.done() for task in tasks[:2]] == [True, True]
        await asyncio.wait(tasks)
        assert tasks[2].cancelled()

    asyncio.run(body())


def test_others_are_waited_for_while_none_is_enough() -> None:
    async def body() -> None:
        begin, graces = asyncio.Event(), []
        tasks = [asyncio.create_task(each) for each in (_answer(""), _answer("bad"), _answer("good", begin))]
        asyncio.get_running_loop().call_soon(begin.set)
        await settle(tasks, _is_good, lambda took_s: graces.append(took_s) or 9.0)
        assert len(graces) == 1
        assert _is_good(tasks[2])
        assert tasks[0].exception() is not None

    asyncio.run(body())


def test_nobody_is_enough() -> None:
    async def body() -> None:
        tasks = [asyncio.create_task(_answer("")), asyncio.create_task(_answer("bad"))]
        await settle(tasks, _is_good, lambda took_s: 0.0)
        assert all(task.done() for task in tasks)
        assert tasks[0].exception() is not None
        await settle([], _is_good, lambda took_s: 0.0)

    asyncio.run(body())
