"""Row 17: tensors that no member should send, over real streams: refused or cut off, and memory does not grow.

Others are answered all the while; the one who does it loses its stream and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import uvloop

from swarm.errors import PeerUnavailable, SwarmError
from swarm.net import channel as channels
from swarm.net.channel import CREDIT_BYTES, ClientChannel, Delivery, Reply, write_frame
from swarm.net.endpoint import TENSORS, Endpoint
from swarm.training.compute import Compute
from swarm.wire import compression, frames
from swarm.wire.frames import Frame, Sort
from swarm.wire.messages import Ack, Activation, BoundaryGradient, Heartbeat, Lease, SpeedProbe, Work
from swarm.wire.payloads import MAX_PROBE_BYTES
from tests.faults import test_repeats
from tests.support.net import SHAPE, Net
from tests.support.runs import heartbeat

MIB = 1 << 20
PAYLOAD = bytes(4 * math.prod(SHAPE))
CUT_S = 5.0
"""Each is refused within a second where nothing else keeps the machine busy."""


@dataclasses.dataclass
class Scene:
    """A host, who does it harm, and who does not."""

    host: Endpoint
    attacker: Endpoint
    bystander: Endpoint
    taken: list[Delivery] = dataclasses.field(default_factory=list)

    def frame(self) -> Activation:
        work = Work(0, Lease(0, 0), 0)
        return Activation(
            plan=1,
            work=work,
            stage=0,
            owner=self.attacker.peer_id,
            route=(self.host.peer_id,),
            codec="fp32",
            shape=SHAPE,
        )

    async def channel(self) -> ClientChannel:
        return await self.attacker.channel(self.host.peer_id, TENSORS)

    async def is_cut(self, channel: ClientChannel) -> None:
        async with asyncio.timeout(CUT_S):
            await channel.closed.wait()

    async def others_are_answered(self) -> None:
        reply, _ = await self.bystander.request(self.host.peer_id, heartbeat(7))
        assert reply.computed_tokens == 7


@pytest.fixture
def on_stage(tmp_path: Path) -> Callable[[Callable[[Scene], Awaitable[None]]], None]:
    """Runs a test's body with real daemons."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Scene]:
        net = Net("libp2p", tmp_path)
        try:
            scene = Scene(await net.endpoint(), await net.endpoint(("owner",)), await net.endpoint(("owner",)))

            async def echo(delivery: Delivery) -> Reply:
                return Reply(delivery.message)

            async def ack(delivery: Delivery) -> Reply:
                return Reply(Ack())

            scene.host.on_frame(Activation, scene.taken.append)
            scene.host.on_frame(BoundaryGradient, scene.taken.append)
            scene.host.on_request(Heartbeat, echo)
            scene.host.on_request(SpeedProbe, ack)
            yield scene
        finally:
            for endpoint in net.endpoints:
                await endpoint.close()

    def run(body: Callable[[Scene], Awaitable[None]]) -> None:
        async def main() -> None:
            async with opened() as scene, asyncio.timeout(60):
                await body(scene)
                await scene.others_are_answered()
                await scene.attacker.send(scene.host.peer_id, scene.frame(), PAYLOAD)  # it may come again, and behave

        uvloop.run(main())

    return run


BAD: dict[str, tuple[dict[str, Any], bytes]] = {
    "rank 2": ({"shape": SHAPE[:2]}, PAYLOAD),
    "rank 4": ({"shape": (*SHAPE, 1)}, PAYLOAD),
    "rank 0": ({"shape": ()}, b""),
    "width": ({"shape": (SHAPE[0], SHAPE[1], SHAPE[2] + 1)}, PAYLOAD),
    "2^40 values": ({"shape": (1 << 40, 1, 1)}, b""),
    "order": ({"shape": tuple(reversed(SHAPE))}, PAYLOAD),
    "bf16": ({"codec": "bf16"}, PAYLOAD[: len(PAYLOAD) // 2]),
    "int8": ({"codec": "int8"}, PAYLOAD),
    "fp64": ({"codec": "fp64"}, PAYLOAD * 2),
    "a byte less": ({}, PAYLOAD[:-1]),
    "a value less": ({}, PAYLOAD[:-4]),
    "twice": ({}, PAYLOAD * 2),
    "nothing": ({}, b""),
}


def test_another_rank_shape_dtype_or_count_is_refused(on_stage: Callable[..., None]) -> None:
    async def body(scene: Scene) -> None:
        for number, (name, (changed, payload)) in enumerate(BAD.items(), 1):
            channel = await scene.channel()
            await channel.send(dataclasses.replace(scene.frame(), **changed), payload)
            await scene.is_cut(channel)
            assert scene.host.refused == number, name
            await scene.others_are_answered()
        assert scene.taken == []

    on_stage(body)


def test_a_declared_size_beyond_all_bounds_allocates_nothing(on_stage: Callable[..., None]) -> None:
    """The last is within the protocol's bounds, but not what this frame may carry."""
    head = frames.encode_frame(Frame(Sort.ONE_WAY, 0, heartbeat(1)), 0)[frames.PREFIX_BYTES :]
    sizes = ((len(head), 2**40), (2**31, 0), (2**32 - 1, 2**64 - 1), (len(head), frames.MAX_PAYLOAD_BYTES))

    async def body(scene: Scene) -> None:
        before = rss_bytes()
        for number, (header_bytes, payload_bytes) in enumerate(sizes, 1):
            channel = await scene.channel()
            channel._stream.write(frames._PREFIX.pack(header_bytes, payload_bytes) + head)
            await scene.is_cut(channel)
            assert scene.host.refused == number
        assert rss_bytes() - before < 16 * MIB

    on_stage(body)


def test_an_endless_stream_is_cut_at_the_cap(on_stage: Callable[..., None]) -> None:
    """Whole frames that nobody is done with, without regard to credit: at most that credit is ever held."""

    async def body(scene: Scene) -> None:
        held: list[int] = []

        async def never(delivery: Delivery) -> Reply:
            held.append(len(delivery.payload))
            await asyncio.Event().wait()
            raise AssertionError

        scene.host.on_request(SpeedProbe, never)
        channel = await scene.channel()
        before, most = rss_bytes(), 0
        payload = bytes(MAX_PROBE_BYTES)
        with contextlib.suppress(PeerUnavailable):
            for number in range(1, 1000):
                write_frame(channel._stream, Frame(Sort.REQUEST, number, SpeedProbe()), payload)
                await channel._stream.drain()
                most = max(most, rss_bytes())
        await scene.is_cut(channel)
        assert scene.host.refused == 1
        assert CREDIT_BYTES < sum(held) <= CREDIT_BYTES + MAX_PROBE_BYTES, "the fault fired"
        # What is held, the frame that is being read, and what is on its way: both ends are in this process.
        assert most - before < CREDIT_BYTES + 6 * MAX_PROBE_BYTES

    on_stage(body)


def test_an_endless_header_is_cut(on_stage: Callable[..., None]) -> None:
    async def body(scene: Scene) -> None:
        channel = await scene.channel()
        before = rss_bytes()
        with contextlib.suppress(PeerUnavailable):
            while not channel.closed.is_set():
                channel._stream.write(b"\x00\x00\x10\x00" + bytes(8) + b"\x91" * 65536)
                await channel._stream.drain()
        await scene.is_cut(channel)
        assert scene.host.refused == 1
        assert rss_bytes() - before < 16 * MIB

    on_stage(body)


def test_many_streams_at_once_are_no_way_around_the_cap(on_stage: Callable[..., None]) -> None:
    """A member has one stream a lane: the next one takes the place of the one before."""

    async def body(scene: Scene) -> None:
        opened = [await scene.attacker._open(scene.host.peer_id, TENSORS) for _ in range(8)]
        for channel in opened[:-1]:
            await scene.is_cut(channel)
        arrived = asyncio.Event()
        scene.host.on_frame(Activation, lambda delivery: arrived.set())
        await opened[-1].send(scene.frame(), PAYLOAD)
        async with asyncio.timeout(CUT_S):
            await arrived.wait()
        assert len(scene.host._accepted) == 1
        for channel in opened:
            channel.abort()

    on_stage(body)


@pytest.mark.parametrize("begun", ["header", "payload"])
def test_a_byte_a_second_is_cut(on_stage: Callable[..., None], monkeypatch: pytest.MonkeyPatch, begun: str) -> None:
    """The limit is shortened here; nothing but the stream is held up meanwhile."""
    monkeypatch.setattr(channels, "_FRAME_S", 1.0)
    whole = 64 * MIB  # at the least rate, an hour

    async def body(scene: Scene) -> None:
        channel = await scene.channel()
        monkeypatch.setattr(channels, "_LEAST_BYTES_PER_S", whole)
        head = frames.encode_frame(Frame(Sort.ONE_WAY, 0, scene.frame()), len(PAYLOAD))
        end = frames.PREFIX_BYTES + 2 if begun == "header" else len(head)
        channel._stream.write(head[:end])
        for byte in (head + PAYLOAD)[end:]:
            await scene.others_are_answered()
            channel._stream.write(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await channel.closed.wait()
            if channel.closed.is_set():
                break
        await scene.is_cut(channel)
        assert scene.host.refused == 1
        assert scene.taken == []

    on_stage(body)


@pytest.mark.parametrize(("kind", "value"), [(Activation, math.nan), (BoundaryGradient, -math.inf)])
def test_values_that_are_not_finite_are_not_counted(
    tmp_path: Path, kind: type[Activation] | type[BoundaryGradient], value: float
) -> None:
    """A real host on real streams: the owner is told, and a sound tensor is computed afterwards."""

    async def main() -> None:
        net = Net("libp2p", tmp_path)
        compute = Compute(1)
        rig = test_repeats.Rig(await net.endpoint(("owner",)), await net.endpoint(("host",)), compute)
        told: asyncio.Queue[tuple[str, object]] = asyncio.Queue()
        rig.host._hop_failed = lambda owner, report: told.put_nowait((owner, report))
        if kind is BoundaryGradient:
            await rig.send(Activation, test_repeats.WORK, 0)
        values = np.zeros(SHAPE, dtype=np.float32)
        values[0, 0, 0] = value
        frame = kind(
            plan=1,
            work=test_repeats.WORK,
            stage=0,
            owner=rig.owner.peer_id,
            route=(rig.host_id,),
            codec="fp32",
            shape=SHAPE,
        )
        async with asyncio.timeout(30):
            await rig.owner.send(rig.host_id, frame, values.tobytes())
            owner, report = await told.get()
            await rig._arrivals.get()
        assert owner == rig.owner.peer_id
        assert "an infinity or a NaN" in str(report)
        assert rig.host.computed_tokens == 0
        if kind is Activation:
            await rig.send(Activation, test_repeats.WORK, 0)
        await rig.send(BoundaryGradient, test_repeats.WORK, 0)
        assert rig.host.computed_tokens == test_repeats.NUM_TOKENS
        found = rig.stage.mean_gradient(0, test_repeats.NUM_TOKENS)
        assert all(torch.equal(one, other) for one, other in zip(found, test_repeats.counted_once(), strict=True))
        await rig.host.close()
        for endpoint in net.endpoints:
            await endpoint.close()
        compute.close()

    uvloop.run(main())


def test_values_that_are_not_finite_are_not_sent() -> None:
    with pytest.raises(SwarmError, match="S403"):
        compression.encode("fp32", torch.tensor([1.0, math.nan]))


def rss_bytes() -> int:
    resident: int = psutil.Process().memory_info().rss
    return resident
