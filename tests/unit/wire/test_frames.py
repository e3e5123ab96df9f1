"""Frames: sizes are known before anything is read, and chunks of any size make the same frames."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import PeerUnavailable, ProtocolError, TooLarge
from swarm.net.channel import read_frame, write_frame
from swarm.net.memory import MemoryNetwork
from swarm.net.transport import ByteStream
from swarm.wire import codec, frames
from swarm.wire.frames import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, PREFIX_BYTES, Frame, Sort
from swarm.wire.messages import Ack, Orders
from tests.support.runs import heartbeat
from tests.support.strategies import messages

_SORTS = st.sampled_from([sort for sort in Sort if sort is not Sort.CREDIT])


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(_SORTS, st.integers(0, 2**60), messages(), st.integers(0, MAX_PAYLOAD_BYTES))
def test_head_round_trip(sort: Sort, request: int, message: Any, payload_bytes: int) -> None:
    frame = Frame(sort, request, message)
    head = frames.encode_frame(frame, payload_bytes)
    header_bytes, announced = frames.decode_prefix(head[:PREFIX_BYTES])
    assert (header_bytes, announced) == (len(head) - PREFIX_BYTES, payload_bytes)
    assert frames.decode_header(head[PREFIX_BYTES:]) == frame


def test_credit_carries_no_message() -> None:
    head = frames.encode_frame(Frame(Sort.CREDIT, 4096, None), 0)
    assert frames.decode_header(head[PREFIX_BYTES:]) == Frame(Sort.CREDIT, 4096, None)


@pytest.mark.parametrize(
    ("header_bytes", "payload_bytes"),
    [(MAX_HEADER_BYTES + 1, 0), (0, MAX_PAYLOAD_BYTES + 1), (2**32 - 1, 2**64 - 1)],
)
def test_a_prefix_over_the_caps_is_refused(header_bytes: int, payload_bytes: int) -> None:
    with pytest.raises(TooLarge, match=r"\[S402\]"):
        frames.decode_prefix(struct.pack("<IQ", header_bytes, payload_bytes))


def test_the_caps_themselves_are_allowed() -> None:
    sizes = (MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES)
    assert frames.decode_prefix(struct.pack("<IQ", *sizes)) == sizes


def test_the_sender_keeps_to_the_caps_too() -> None:
    with pytest.raises(TooLarge):
        frames.encode_frame(Frame(Sort.REPLY, 1, Ack()), MAX_PAYLOAD_BYTES + 1)
    with pytest.raises(TooLarge):
        frames.encode_frame(Frame(Sort.REPLY, 1, Orders(items=(bytes(MAX_HEADER_BYTES),))), 0)


_ACK = codec.flatten(Ack())


@pytest.mark.parametrize(
    "values",
    [
        *([], [0, 1], [0, 1, _ACK, 0], 7, {}),
        *([True, 1, _ACK], [0, "1", _ACK], [0, True, _ACK]),
        *([5, 1, _ACK], [-1, 1, _ACK]),
        *([0, 1, None], [0, 1, [9_999]], [0, 1, 12]),
    ],
)
def test_a_header_that_is_none_is_refused(values: object) -> None:
    with pytest.raises(ProtocolError):
        frames.decode_header(msgpack.packb(values))


class _Counting:
    """A stream that hands out what it was given, and counts what was asked for."""

    remote_id = "far"

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[int] = []

    async def read_exactly(self, num_bytes: int) -> bytes:
        self.asked.append(num_bytes)
        assert num_bytes <= len(self.data), "read past what arrived"
        found, self.data = self.data[:num_bytes], self.data[num_bytes:]
        return found

    def write(self, *parts: bytes | memoryview) -> None: ...

    async def drain(self) -> None: ...

    def abort(self) -> None: ...


def test_nothing_is_read_after_a_prefix_over_the_caps() -> None:
    stream = _Counting(struct.pack("<IQ", 100, 2**50) + bytes(100))
    with pytest.raises(TooLarge):
        asyncio.run(read_frame(stream, lambda message, size: None))
    assert stream.asked == [PREFIX_BYTES]


def test_no_payload_is_read_that_the_check_refuses() -> None:
    def refuse(message: object, payload_bytes: int) -> None:
        raise ProtocolError(f"{payload_bytes} bytes", "drop")

    head = frames.encode_frame(Frame(Sort.ONE_WAY, 0, Ack()), 1 << 20)
    stream = _Counting(head)
    with pytest.raises(ProtocolError, match="1048576 bytes"):
        asyncio.run(read_frame(stream, refuse))
    assert stream.asked == [PREFIX_BYTES, len(head) - PREFIX_BYTES]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=12), st.integers(0, 2**32))
def test_frames_arrive_whole_however_the_bytes_are_cut(payloads: list[bytes], seed: int) -> None:
    async def main() -> list[tuple[Frame, bytes]]:
        network = MemoryNetwork(seed=seed, max_delay_s=0.0005)
        near, far = network.join("near"), network.join("far")
        found: list[tuple[Frame, bytes]] = []
        finished = asyncio.Event()

        async def take(stream: ByteStream) -> None:
            try:
                while True:
                    found.append(await read_frame(stream, lambda message, size: None))
            except PeerUnavailable:
                finished.set()

        await far.serve("lane", take)
        stream = await near.open("far", "lane")
        for number, payload in enumerate(payloads):
            message = heartbeat(number, "x" * number)
            write_frame(stream, Frame(Sort.ONE_WAY, number, message), payload)
        stream.abort()
        await finished.wait()
        return found

    found = asyncio.run(main())
    assert [payload for _, payload in found] == payloads
    assert [frame.message.computed_tokens for frame, _ in found] == list(range(len(payloads)))
    assert [frame.request for frame, _ in found] == list(range(len(payloads)))
