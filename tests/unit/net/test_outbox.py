"""Outboxes: in order, at least once however streams break, and a peer is given up once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from swarm.errors import NotAMember
from swarm.identity import Identity
from swarm.net import outbox as outboxes
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.net.memory import MemoryNetwork
from swarm.net.outbox import Outbox, unpack
from swarm.wire.messages import Ack, Heartbeat, Orders, Reports
from tests.support.runs import Run, heartbeat

RUN = Run()


class Pair:
    """Two members on a network in memory; `far` notes what it was told."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(seed=3, max_delay_s=0.0005)
        self.near = self._endpoint()
        self.far = self._endpoint()
        self.told: list[int] = []
        self.batches = 0

    def _endpoint(self) -> Endpoint:
        identity = Identity.generate()
        transport = self.network.join(identity.peer_id)
        return Endpoint(transport, RUN.membership, RUN.config.fingerprint, RUN.certificate(identity, "scheduler"))

    async def take(self, delivery: Delivery) -> Reply:
        assert isinstance(delivery.message, Orders | Reports)
        self.batches += 1
        for message in unpack(delivery.message):
            assert isinstance(message, Heartbeat)
            self.told.append(message.computed_tokens)
        return Reply(Ack())


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    await made.near.start()
    await made.far.start()
    try:
        async with asyncio.timeout(60):
            yield made
    finally:
        await made.near.close()
        await made.far.close()


def run(body: Callable[[Pair], Awaitable[None]]) -> None:
    async def main() -> None:
        async with pair() as made:
            await body(made)

    asyncio.run(main())


def beat(number: int) -> Heartbeat:
    return heartbeat(number)


@pytest.fixture(autouse=True)
def _retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "_RETRY_S", 0.0005)


@pytest.mark.parametrize("kind", [Orders, Reports])
def test_messages_arrive_once_and_in_order(kind: type[Orders] | type[Reports]) -> None:
    async def body(made: Pair) -> None:
        made.far.on_request(kind, made.take)
        outbox = Outbox(made.near, made.far.peer_id, kind)
        for number in range(200):
            outbox.post(beat(number))
        await outbox.flushed()
        assert made.told == list(range(200))
        assert made.batches < 200
        await outbox.close()

    run(body)


def test_over_streams_that_break_nothing_is_lost_or_overtaken() -> None:
    async def body(made: Pair) -> None:
        made.far.on_request(Orders, made.take)
        made.network.break_probability = 0.1
        outbox = Outbox(made.near, made.far.peer_id, Orders)
        for number in range(400):
            outbox.post(beat(number))
            if number % 5 == 0:
                await outbox.flushed()
        await outbox.flushed()
        assert made.network.broken > 5
        assert len(made.told) > 400  # some came twice: the acknowledgement was lost
        assert list(dict.fromkeys(made.told)) == list(range(400))
        # A repeated batch begins again at something that was told before; nothing new comes before it is complete.
        newest = -1
        for number in made.told:
            assert number <= newest + 1
            newest = max(newest, number)
        await outbox.close()

    run(body)


def test_a_peer_that_comes_later_hears_everything() -> None:
    async def body(made: Pair) -> None:
        visits = 0

        async def refuse_at_first(delivery: Delivery) -> Reply:
            nonlocal visits
            visits += 1
            if visits <= 3:
                raise NotAMember("not yet", "come again")
            return await made.take(delivery)

        made.far.on_request(Orders, refuse_at_first)
        outbox = Outbox(made.near, made.far.peer_id, Orders)
        for number in range(10):
            outbox.post(beat(number))
        await outbox.flushed()
        assert visits == 4
        assert made.told == list(range(10))
        assert outbox.failures == 0
        await outbox.close()

    run(body)


def test_an_unreachable_peer_is_given_up_once_after_so_many_failures() -> None:
    async def body(made: Pair) -> None:
        lost: list[str] = []
        nobody = Identity.generate().peer_id
        outbox = Outbox(made.near, nobody, Orders, max_failures=3, on_lost=lambda error: lost.append(error.problem))
        outbox.post(beat(1))
        await outbox.flushed()
        assert outbox.failures == 3
        assert len(lost) == 1
        assert nobody in lost[0]
        await outbox.close()
        assert len(lost) == 1

    run(body)


def test_a_failure_is_not_followed_by_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a killed host all dials are refused at once: four of them must not take four pings' time."""
    monkeypatch.setattr(outboxes, "PING_S", 3600.0)

    async def body(made: Pair) -> None:
        lost = asyncio.Event()
        made.far.on_request(Orders, made.take)
        outbox = Outbox(made.near, made.far.peer_id, Orders, 4, lambda problem: lost.set())
        outbox.post(beat(1))
        await outbox.flushed()
        await made.far.close()
        outbox.poke()  # nothing waits to be sent
        await lost.wait()
        assert outbox.failures == 4
        await outbox.close()

    run(body)


def test_a_peer_that_refuses_is_given_up_at_once() -> None:
    async def body(made: Pair) -> None:
        async def refuse(delivery: Delivery) -> Reply:
            raise NotAMember("you are not my leader", "go away")

        made.far.on_request(Orders, refuse)
        lost: list[str] = []
        outbox = Outbox(
            made.near, made.far.peer_id, Orders, max_failures=5, on_lost=lambda error: lost.append(error.problem)
        )
        outbox.post(beat(1))
        await outbox.flushed()
        assert outbox.failures == 1
        assert len(lost) == 1
        assert "you are not my leader" in lost[0]
        await outbox.close()

    run(body)


def test_what_is_posted_to_a_lost_peer_does_not_hold_up_a_farewell() -> None:
    async def body(made: Pair) -> None:
        outbox = Outbox(made.near, Identity.generate().peer_id, Orders, max_failures=1)
        outbox.post(beat(1))
        await outbox.flushed()
        outbox.post(beat(2))
        async with asyncio.timeout(5):
            await outbox.flushed()
        await outbox.close()

    run(body)


def test_a_ping_says_whether_the_peer_answers() -> None:
    async def body(made: Pair) -> None:
        outbox = Outbox(made.near, made.far.peer_id, Orders)
        made.far.on_request(Orders, made.take)
        assert await outbox.ping()
        await made.far.close()
        assert not await outbox.ping()
        assert made.told == []
        await outbox.close()

    run(body)


def test_an_idle_outbox_asks_when_it_is_poked() -> None:
    async def body(made: Pair) -> None:
        lost = asyncio.Event()
        made.far.on_request(Orders, made.take)
        outbox = Outbox(made.near, made.far.peer_id, Orders, 1, lambda problem: lost.set())
        outbox.post(beat(1))
        await outbox.flushed()
        await made.far.close()
        outbox.poke()
        await lost.wait()
        await outbox.close()

    run(body)


def test_a_message_does_not_wait_for_the_answer_to_the_one_before() -> None:
    """On a long line that would be a round trip a message; order and acknowledgement stay."""

    async def body(net: Pair) -> None:
        answered, arrived = asyncio.Event(), asyncio.Queue[None]()

        async def slow(delivery: Delivery) -> Reply:
            reply = await net.take(delivery)
            arrived.put_nowait(None)
            await answered.wait()
            return reply

        net.far.on_request(Orders, slow)
        outbox = Outbox(net.near, net.far.peer_id, Orders)
        for number in range(5):
            outbox.post(beat(number))
            await arrived.get()
        assert net.told == [0, 1, 2, 3, 4]
        answered.set()
        await outbox.flushed()
        await outbox.close()

    run(body)


def test_a_peer_that_is_not_silent_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a thin line its answer waits behind tensors, and so do its reports, but they keep coming."""
    monkeypatch.setattr(outboxes, "_ANSWER_FLOOR_S", 0.3)

    async def body(made: Pair) -> None:
        lost: list[str] = []
        talked = asyncio.Event()

        async def answer_late(delivery: Delivery) -> Reply:
            await talked.wait()
            return await made.take(delivery)

        async def hear(delivery: Delivery) -> Reply:
            return Reply(Ack())

        made.far.on_request(Orders, answer_late)
        made.near.on_request(Reports, hear)
        outbox = Outbox(made.near, made.far.peer_id, Orders, 4, lambda error: lost.append(error.problem))
        outbox.post(beat(1))
        limit_s = 2 * 0.3
        for _ in range(8):  # longer than the limit, shorter than what is the most
            await made.far.request(made.near.peer_id, Reports(items=()))
            await asyncio.sleep(limit_s / 5)
        talked.set()
        await outbox.flushed()
        assert made.told == [1]
        assert lost == []
        await outbox.close()

    run(body)


@pytest.mark.parametrize("talks", [False, True])
def test_a_peer_that_never_answers_is_lost_whether_it_talks_or_not(
    monkeypatch: pytest.MonkeyPatch, talks: bool
) -> None:
    monkeypatch.setattr(outboxes, "_ANSWER_FLOOR_S", 0.1)

    async def body(made: Pair) -> None:
        lost = asyncio.Event()

        async def never(delivery: Delivery) -> Reply:
            await asyncio.Event().wait()
            raise AssertionError

        async def hear(delivery: Delivery) -> Reply:
            return Reply(Ack())

        made.far.on_request(Orders, never)
        made.near.on_request(Reports, hear)
        outbox = Outbox(made.near, made.far.peer_id, Orders, 4, lambda problem: lost.set())
        outbox.post(beat(1))
        num_reports = 0
        while not lost.is_set():
            if talks:
                await made.far.request(made.near.peer_id, Reports(items=()))
                num_reports += 1
            await asyncio.sleep(0.02)
        assert not talks or num_reports > 5
        assert outbox.failures == 1
        await outbox.close()

    run(body)
