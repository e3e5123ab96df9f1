"""What an owner allows a line to carry, on real daemons: tensors and rounds keep to it, control passes by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
import uvloop

from swarm.net.allreduce import RoundPlan, StrictRounds
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport
from swarm.net.shelf import Shelf
from swarm.net.state import StateFetch
from swarm.net.traffic import PIECE_BYTES, Traffic
from swarm.wire.messages import Ack, FetchState, Heartbeat, ListState, SpeedProbe
from tests.support.net import Net
from tests.support.runs import heartbeat

RATE = 2e6
SLOW = 64 << 10
MESSAGE = bytes(1 << 20)
SAVED_S = 0.2
"""What a line may make up for, and the first piece."""


def net_of_two(folder: Path, body: Callable[[Endpoint, Traffic, Endpoint, Traffic], Awaitable[None]]) -> None:
    async def whole() -> None:
        net = Net("libp2p", folder)
        try:
            (a, of_a), (b, of_b) = [await _limited(net), await _limited(net)]
            async with asyncio.timeout(120):
                await body(a, of_a, b, of_b)
        finally:
            for endpoint in net.endpoints:
                await endpoint.close()

    uvloop.run(whole())


async def _limited(net: Net) -> tuple[Endpoint, Traffic]:
    endpoint = await net.endpoint()
    assert isinstance(endpoint.transport, Libp2pTransport)

    async def ack(delivery: Delivery) -> Reply:
        return Reply(Ack())

    endpoint.on_request(SpeedProbe, ack)
    endpoint.on_request(Heartbeat, ack)
    return endpoint, endpoint.transport.traffic


async def _seconds_of(messages: int, a: Endpoint, b: Endpoint) -> float:
    await a.request(b.peer_id, SpeedProbe(), b"greeted")
    begun_s = time.monotonic()
    for _ in range(messages):
        await a.request(b.peer_id, SpeedProbe(), MESSAGE)
    return time.monotonic() - begun_s


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_line_carries_no_more_than_its_owner_allows(direction: str, tmp_path: Path) -> None:
    async def body(a: Endpoint, of_a: Traffic, b: Endpoint, of_b: Traffic) -> None:
        (of_a.up if direction == "up" else of_b.down).bytes_per_s = RATE
        assert await _seconds_of(3, a, b) >= 2 * len(MESSAGE) / RATE - SAVED_S

    net_of_two(tmp_path, body)


def test_control_does_not_wait_for_a_limited_line_and_a_new_limit_counts_at_once(tmp_path: Path) -> None:
    async def body(a: Endpoint, of_a: Traffic, b: Endpoint, of_b: Traffic) -> None:
        await a.request(b.peer_id, SpeedProbe(), b"greeted")
        of_a.up.bytes_per_s = SLOW
        transfer = asyncio.create_task(a.request(b.peer_id, SpeedProbe(), 4 * MESSAGE, deadline_s=100))
        for number in range(20):
            await a.request(b.peer_id, heartbeat(number, "x"))
        assert of_a.sent_bytes >= PIECE_BYTES
        assert not transfer.done()  # a minute's work
        of_a.up.bytes_per_s = 0.0
        await transfer

    net_of_two(tmp_path, body)


def test_state_keeps_to_the_limit(tmp_path: Path) -> None:
    async def body(a: Endpoint, of_a: Traffic, b: Endpoint, of_b: Traffic) -> None:
        shelf = Shelf()
        shelf.put_copy((1, 2), 7, {"model-00001": 3 * MESSAGE})
        a.on_request(ListState, shelf.list)
        a.on_request(FetchState, shelf.fetch)
        of_a.up.bytes_per_s = RATE
        begun_s = time.monotonic()
        parts = await StateFetch(b, 7, ["model-00001"], 3 * len(MESSAGE)).run([a.peer_id])
        assert time.monotonic() - begun_s >= 3 * len(MESSAGE) / RATE - SAVED_S
        assert parts["model-00001"] == 3 * MESSAGE

    net_of_two(tmp_path, body)


def test_rounds_keep_to_the_limit(tmp_path: Path) -> None:
    async def body(a: Endpoint, of_a: Traffic, b: Endpoint, of_b: Traffic) -> None:
        values = torch.arange(1_000_000, dtype=torch.float32)
        members = tuple(sorted((a.peer_id, b.peer_id)))
        plan = RoundPlan(
            round_id=b"limited" + bytes(13),
            members=members,
            weights=(1.0, 1.0),
            fractions=(0.5, 0.5),
            codec="fp32",
            sender_timeout_s=30,
            reducer_timeout_s=60,
        )
        rounds = []
        for endpoint, traffic in ((a, of_a), (b, of_b)):
            assert isinstance(endpoint.transport, Libp2pTransport)
            rounds.append(await StrictRounds.create(endpoint.transport.p2p, traffic))
        of_a.up.bytes_per_s = RATE
        for each in rounds:
            each.prepare(plan, [values])
        begun_s = time.monotonic()
        results = await asyncio.gather(*(each.go(plan.round_id) for each in rounds))
        # Its half of the values to the other, and the averages of its own half.
        assert time.monotonic() - begun_s >= 0.9 * values.nbytes / RATE
        assert torch.equal(results[0][0], values)

    net_of_two(tmp_path, body)


@pytest.mark.long
def test_over_a_minute_a_line_carries_what_is_allowed(tmp_path: Path) -> None:
    async def body(a: Endpoint, of_a: Traffic, b: Endpoint, of_b: Traffic) -> None:
        of_a.up.bytes_per_s = RATE
        await a.request(b.peer_id, SpeedProbe(), b"greeted")
        begun_s, before = time.monotonic(), of_b.received_bytes
        while time.monotonic() < begun_s + 60:
            await a.request(b.peer_id, SpeedProbe(), MESSAGE)
        rate = (of_b.received_bytes - before) / (time.monotonic() - begun_s)
        assert rate == pytest.approx(RATE, rel=0.05)

    net_of_two(tmp_path, body)
