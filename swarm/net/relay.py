"""A relay for members that nobody can dial: it speaks libp2p's own protocol, so that every daemon can use it.

It is ours and not the daemon's: that one serves whoever comes, cuts a circuit after 128 KiB or two minutes, and cannot
be switched off. What a circuit carries is encrypted between its ends; the relay sees who, when and how much.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure, P2PDaemonError

from swarm.errors import ProtocolError
from swarm.net.slots import SLOT_S, Slots
from swarm.wire.circuit import (
    CIRCUIT,
    MAX_BYTES,
    STOP,
    HopMessage,
    Kind,
    StopMessage,
    Verdict,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
)

BROKEN = (ControlFailure, P2PDaemonError, OSError, EOFError, ProtocolError, TimeoutError)
"""How a stream to or from a daemon can end."""
_SETUP_S = 10.0
_MOST_ADDRESSES = 8
_PIECE_BYTES = 256 << 10
_Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, eq=False)
class _Circuit:
    ends: tuple[str, str]
    near: asyncio.StreamWriter
    far: asyncio.StreamWriter

    def cut(self) -> None:
        self.near.transport.abort()
        self.far.transport.abort()


@dataclass(slots=True)
class Relay:
    """Carries circuits between members; refuses everybody until it is opened.

    Attributes:
        carried_bytes, num_carried: by all circuits so far, and their number.
    """

    carried_bytes: int = 0
    num_carried: int = 0
    slots: Slots = field(default_factory=Slots)
    _p2p: P2P | None = None
    _is_member: Callable[[str], bool] = field(default=lambda peer: False)
    _circuits: set[_Circuit] = field(default_factory=set)

    def open(self, p2p: P2P, is_member: Callable[[str], bool]) -> None:
        """Begin.

        Args:
            p2p: the daemon whose streams come to `serve`.
            is_member: whether a peer's certificate was seen and holds.
        """
        self._p2p, self._is_member = p2p, is_member

    async def serve(self, info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One stream that a peer opened to us as a relay; strangers are not even listened to."""
        peer = info.peer_id.to_base58()
        is_member = CIRCUIT not in str(info.addr) and self._is_member(peer)
        if not self.slots.enter(peer, is_member=is_member):
            writer.transport.abort()
            return
        try:
            await self._answer(info.peer_id, (reader, writer))
        except BROKEN:
            pass
        finally:
            self.slots.leave(peer)
            writer.transport.abort()

    def keep(self, members: Container[str]) -> None:
        """Whoever is no member any more loses its slot and its circuits."""
        self.slots.keep(members)
        for circuit in tuple(self._circuits):
            if not all(end in members for end in circuit.ends):
                circuit.cut()

    async def _answer(self, peer: PeerID, near: _Pipe) -> None:
        message = decode_hop(await read_message(near[0]))
        if message.kind is Kind.RESERVE:
            await self._reserve(peer.to_base58(), near[1])
        elif message.kind is Kind.CONNECT:
            await self._connect(peer, PeerID(message.peer), near)
        else:
            await _refuse(near[1], Verdict.UNEXPECTED_MESSAGE)

    async def _reserve(self, peer: str, writer: asyncio.StreamWriter) -> None:
        assert self._p2p is not None
        now_s = time.time()
        verdict = self.slots.take(peer, now_s)
        if verdict is not Verdict.OK:
            await _refuse(writer, verdict)
            return
        ours = [address.to_bytes() for address in await self._p2p.get_visible_maddrs()]
        answer = HopMessage(
            kind=Kind.STATUS,
            verdict=Verdict.OK,
            expires_at_s=int(now_s + SLOT_S),
            addresses=tuple(ours[:_MOST_ADDRESSES]),
        )
        await write_message(writer, encode_hop(answer))

    async def _connect(self, source: PeerID, target: PeerID, near: _Pipe) -> None:
        ends = source.to_base58(), target.to_base58()
        verdict = self.slots.call(ends[1], time.time())
        if verdict is not Verdict.OK:
            await _refuse(near[1], verdict)
            return
        try:
            try:
                far = await self._call(source, target)
            except BROKEN:
                await _refuse(near[1], Verdict.CONNECTION_FAILED)
                return
            circuit = _Circuit(ends, near[1], far[1])
            self._circuits.add(circuit)
            try:
                await write_message(near[1], encode_hop(HopMessage(kind=Kind.STATUS, verdict=Verdict.OK)))
                self.num_carried += 1
                await self._carry(near, far)
            finally:
                self._circuits.discard(circuit)
                circuit.cut()
        finally:
            self.slots.hang_up(ends[1])

    async def _call(self, source: PeerID, target: PeerID) -> _Pipe:
        """Tell the target who calls; the stream to it, once it agreed."""
        assert self._p2p is not None
        async with asyncio.timeout(_SETUP_S):
            _, reader, writer = await self._p2p.call_binary_stream_handler(target, STOP)
            try:
                call = StopMessage(kind=Kind.CONNECT, peer=source.to_bytes())
                await write_message(writer, encode_stop(call))
                answer = decode_stop(await read_message(reader))
                if answer.kind is not Kind.STATUS or answer.verdict is not Verdict.OK:
                    raise ProtocolError(f"a circuit was refused ({answer.verdict.name})", "nothing to do")
            except BaseException:
                writer.transport.abort()
                raise
        return reader, writer

    async def _carry(self, near: _Pipe, far: _Pipe) -> None:
        """Both ways, until either end is gone: no stream of ours is ever closed by half."""
        ways = [asyncio.create_task(self._copy(near[0], far[1])), asyncio.create_task(self._copy(far[0], near[1]))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_PIECE_BYTES):
                writer.write(piece)
                self.carried_bytes += len(piece)
                await writer.drain()


async def _refuse(writer: asyncio.StreamWriter, verdict: Verdict) -> None:
    await write_message(writer, encode_hop(HopMessage(kind=Kind.STATUS, verdict=verdict)))


async def write_message(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send what `swarm.wire.circuit` encoded; raises an error of `BROKEN`."""
    async with asyncio.timeout(_SETUP_S):
        writer.write(data)
        await writer.drain()


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """A message without its length; raises an error of `BROKEN`."""
    async with asyncio.timeout(_SETUP_S):
        length = shift = 0
        while True:
            byte = (await reader.readexactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
            if shift > 14:
                raise ProtocolError("a message about a relayed connection is too long", "drop that peer")
        if length > MAX_BYTES:
            raise ProtocolError("a message about a relayed connection is too long", "drop that peer")
        return await reader.readexactly(length)
