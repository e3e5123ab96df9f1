"""Frames over one stream: requests and replies, one-way frames, credits.

Whoever opens a stream sends requests and one-way frames on it; the other side sends replies and credits back. Payload
bytes in flight are bounded: the receiver returns credit when it is done with a payload, so a slow consumer slows its
producers and nobody's memory grows. A stream that ends means nothing: whatever has no reply has failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from swarm.config import LEAST_LINE_BYTES_PER_S
from swarm.errors import DeadlineExceeded, PeerUnavailable, ProtocolError, SwarmError
from swarm.net.awake import awake_timeout
from swarm.net.deadlines import Deadline
from swarm.net.transport import ByteStream
from swarm.wire.frames import PREFIX_BYTES, Frame, Sort, decode_header, decode_prefix, encode_frame
from swarm.wire.messages import Failure

Payload = bytes | memoryview
PayloadCheck = Callable[[object, int], None]

CREDIT_BYTES = 64 << 20
"""Payload bytes that may be under way on one stream."""
_CREDIT_STEP = CREDIT_BYTES // 8
_FRAME_S = 30.0
_LEAST_BYTES_PER_S = LEAST_LINE_BYTES_PER_S / 2
"""Whoever began a frame finishes it at this rate at least, and has so long in any case."""


@dataclass(slots=True)
class Delivery:
    """A message that arrived, with its payload and who sent it.

    Attributes:
        remote_id: authenticated by the transport.
        roles: of its certificate; empty for a stranger.
        release: call once the payload is no longer needed; it returns the sender's credit.
    """

    message: object
    payload: bytes
    remote_id: str
    roles: tuple[str, ...]
    release: Callable[[], None]


@dataclass(slots=True)
class Reply:
    """A reply with a payload."""

    message: object
    payload: Payload = b""


async def read_frame(stream: ByteStream, check: PayloadCheck) -> tuple[Frame, bytes]:
    """The next frame; the payload is read only after its header passed `check`.

    Raises:
        ProtocolError: malformed, too large or too slow; the stream is of no more use.
        PeerUnavailable: the stream ended.
    """
    header_bytes, payload_bytes = decode_prefix(await stream.read_exactly(PREFIX_BYTES))
    limit_s = _FRAME_S + (header_bytes + payload_bytes) / _LEAST_BYTES_PER_S
    try:
        async with asyncio.timeout(limit_s):
            frame = decode_header(await stream.read_exactly(header_bytes))
            check(frame.message, payload_bytes)
            payload = await stream.read_exactly(payload_bytes) if payload_bytes else b""
    except TimeoutError:
        raise ProtocolError(f"a frame did not come whole within {limit_s:.0f} s", "drop that peer") from None
    return frame, payload


def write_frame(stream: ByteStream, frame: Frame, payload: Payload = b"") -> None:
    """Queue a frame; the payload is not copied here."""
    head = encode_frame(frame, len(payload))
    if payload:
        stream.write(head, memoryview(payload))
    else:
        stream.write(head)


class ClientChannel:
    """The opener's half of a stream.

    Args:
        roles: of the other side's certificate.
    """

    def __init__(self, stream: ByteStream, check: PayloadCheck, roles: tuple[str, ...] = ()) -> None:
        self.roles = roles
        self._stream = stream
        self._check = check
        self._next_request = 1
        self._pending: dict[int, asyncio.Future[tuple[object, bytes]]] = {}
        self.outstanding_bytes = 0
        self._credit = asyncio.Event()
        self._deadline = Deadline()
        self.closed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def request(
        self, message: object, payload: Payload = b"", deadline_s: float | None = None
    ) -> tuple[object, bytes]:
        """Send a request and wait for its reply.

        Raises:
            DeadlineExceeded: no reply within `deadline_s`, or within what earlier replies suggest.
            PeerUnavailable: the stream broke before the reply.
            SwarmError: the other side refused; its own number and words.
        """
        number = self._next_request
        self._next_request += 1
        future: asyncio.Future[tuple[object, bytes]] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        limit_s = deadline_s if deadline_s is not None else self._deadline.seconds
        started_s = time.monotonic()
        try:
            async with awake_timeout(limit_s):
                await self._write(Frame(Sort.REQUEST, number, message), payload)
                reply = await future
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self._stream.remote_id} did not answer {type(message).__name__} within {limit_s:.1f} s",
                "check its machine and link",
            ) from None
        finally:
            self._pending.pop(number, None)
            if future.done() and not future.cancelled():
                future.exception()  # a broken stream may have set it while we were leaving
        self._deadline.observe(time.monotonic() - started_s)
        return reply

    async def send(self, message: object, payload: Payload = b"") -> None:
        """Send a one-way frame, waiting for credit; raises PeerUnavailable."""
        await self._write(Frame(Sort.ONE_WAY, 0, message), payload)

    def abort(self) -> None:
        """Drop the stream."""
        self._reader.cancel()
        self._fail()

    async def _write(self, frame: Frame, payload: Payload) -> None:
        while self.outstanding_bytes >= _CREDIT_STEP and self.outstanding_bytes + len(payload) > CREDIT_BYTES:
            self._credit.clear()
            if self.closed.is_set():
                break
            await self._credit.wait()
        if self.closed.is_set():
            raise _gone(self._stream.remote_id)
        self.outstanding_bytes += len(payload)
        try:
            write_frame(self._stream, frame, payload)
            await self._stream.drain()
        except PeerUnavailable:
            self._fail()
            raise

    async def _read(self) -> None:
        try:
            while True:
                frame, payload = await read_frame(self._stream, self._check)
                self._take(frame, payload)
        except SwarmError:
            self._fail()

    def _take(self, frame: Frame, payload: bytes) -> None:
        if frame.sort is Sort.CREDIT:
            self.outstanding_bytes = max(0, self.outstanding_bytes - max(0, frame.request))
            self._credit.set()
            return
        future = self._pending.get(frame.request)
        if future is None or future.done():
            return
        if frame.sort is Sort.FAILURE and isinstance(frame.message, Failure):
            future.set_exception(RefusedByPeer.from_failure(self._stream.remote_id, frame.message))
        elif frame.sort is Sort.REPLY:
            future.set_result((frame.message, payload))

    def _fail(self) -> None:
        self.closed.set()
        self._credit.set()
        self._stream.abort()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(_gone(self._stream.remote_id))


class RefusedByPeer(SwarmError):
    """The other side's error, under its own number."""

    code = "S400"

    @classmethod
    def from_failure(cls, peer: str, failure: Failure) -> RefusedByPeer:
        """Rebuild what the peer said."""
        error = cls(f"{peer[-8:]} refused: {failure.problem}", failure.remedy)
        error.peer_code = failure.code
        return error

    peer_code: str = "S400"

    def __str__(self) -> str:
        return f"[{self.peer_code}] {self.problem}; {self.remedy}."

    @property
    def exit_code(self) -> int:
        return 10 + int(self.peer_code[1]) if self.peer_code[1:2].isdigit() else super().exit_code


Dispatch = Callable[[Delivery, bool], "Awaitable[Reply] | None"]


@dataclass(slots=True)
class ServerChannel:
    """The acceptor's half of a stream.

    Args:
        dispatch: called in order for every message, with whether it wants a reply; returns the reply's coroutine.
    """

    stream: ByteStream
    check: PayloadCheck
    roles: tuple[str, ...]
    dispatch: Dispatch
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _held_bytes: int = 0
    _owed_bytes: int = 0

    async def serve(self) -> None:
        """Handle frames until the stream ends or breaks the protocol."""
        try:
            while True:
                frame, payload = await read_frame(self.stream, self.check)
                self._handle(frame, payload)
        finally:
            self.stream.abort()
            for task in self._tasks:
                task.cancel()

    def _handle(self, frame: Frame, payload: bytes) -> None:
        if frame.sort not in (Sort.ONE_WAY, Sort.REQUEST):
            raise ProtocolError("a reply came on a stream that asked nothing", "drop that peer")
        released = not payload
        if self._held_bytes > CREDIT_BYTES:
            raise ProtocolError("a peer sends more than its credit", "drop that peer")
        self._held_bytes += len(payload)

        def release() -> None:
            nonlocal released
            if not released:
                released = True
                self._held_bytes -= len(payload)
                self._give_credit(len(payload))

        delivery = Delivery(frame.message, payload, self.stream.remote_id, self.roles, release)
        wants_reply = frame.sort is Sort.REQUEST
        answer = self.dispatch(delivery, wants_reply)
        if wants_reply and answer is not None:
            task = asyncio.ensure_future(self._answer(frame.request, answer, release))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: int, answer: Awaitable[Reply], release: Callable[[], None]) -> None:
        try:
            reply = await answer
            frame = Frame(Sort.REPLY, request, reply.message)
        except SwarmError as error:
            reply = Reply(None)
            failure = Failure(code=error.code, problem=error.problem, remedy=error.remedy)
            frame = Frame(Sort.FAILURE, request, failure)
        finally:
            release()
        try:
            write_frame(self.stream, frame, reply.payload)
            await self.stream.drain()
        except PeerUnavailable:
            self.stream.abort()

    def _give_credit(self, num_bytes: int) -> None:
        self._owed_bytes += num_bytes
        if self._owed_bytes >= _CREDIT_STEP // 2:
            write_frame(self.stream, Frame(Sort.CREDIT, self._owed_bytes, None))
            self._owed_bytes = 0


def _gone(peer: str) -> PeerUnavailable:
    return PeerUnavailable(f"the stream to {peer} broke", "nothing to do: it is opened again when needed")
