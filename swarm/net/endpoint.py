"""All channels of one peer: opens them when needed, checks who is on the other side, hands messages to handlers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from swarm.admission import Membership
from swarm.errors import (
    MembershipRevoked,
    NotAMember,
    PeerUnavailable,
    ProtocolError,
    RunMismatch,
    SwarmError,
    VersionMismatch,
)
from swarm.net.channel import (
    ClientChannel,
    Delivery,
    Payload,
    RefusedByPeer,
    Reply,
    ServerChannel,
    read_frame,
    write_frame,
)
from swarm.net.deadlines import FIRST_S
from swarm.net.transport import CONTROL, LANES, TENSORS, ByteStream, Transport
from swarm.wire.frames import Frame, Sort
from swarm.wire.messages import PROTOCOL_VERSION, Admit, DialBack, Failure, Hello, Revoke
from swarm.wire.payloads import PayloadRules, check_payload

_STRANGERS_MAY_SEND = (Admit, DialBack)

FrameHandler = Callable[[Delivery], None]
RequestHandler = Callable[[Delivery], Awaitable[Reply]]


@dataclass(slots=True)
class Endpoint:
    """One peer on the network.

    Args:
        transport: moves the bytes.
        membership: tells members from strangers.
        fingerprint: of the run configuration.
        certificate: our own; empty until admitted.
        rules: what boundary tensors may be; None before the run's configuration is known, when none may come.
    """

    transport: Transport
    membership: Membership
    fingerprint: str
    certificate: bytes = b""
    rules: PayloadRules | None = None
    refused: int = 0
    _frame_handlers: dict[type, tuple[FrameHandler, str | None]] = field(default_factory=dict)
    _request_handlers: dict[type, tuple[RequestHandler, str | None]] = field(default_factory=dict)
    _channels: dict[tuple[str, str], ClientChannel] = field(default_factory=dict)
    _opening: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)
    _accepted: dict[tuple[str, str], ByteStream] = field(default_factory=dict)
    _heard_at_s: dict[str, float] = field(default_factory=dict)

    @property
    def peer_id(self) -> str:
        """Our own."""
        return self.transport.peer_id

    @property
    def members(self) -> frozenset[str]:
        """Whoever has a stream to us now and has shown a certificate on it."""
        return frozenset(peer for peer, _ in self._accepted)

    def is_connected(self, peer: str) -> bool:
        """Whether our channel of control to a peer is open: where it lives, it breaks only with its network."""
        channel = self._channels.get((peer, CONTROL))
        return channel is not None and not channel.closed.is_set()

    def silent_s(self, peer: str) -> float:
        """How long ago a member last said anything to us, on any lane; infinite for one that never did."""
        return time.monotonic() - self._heard_at_s.get(peer, -math.inf)

    async def start(self) -> None:
        """Accept streams."""
        for lane in LANES:
            await self.transport.serve(lane, partial(self._accept, lane))

    def become_member(self, certificate: bytes, rules: PayloadRules | None) -> None:
        """Admitted: channels that were opened as a stranger are opened again as a member."""
        self.certificate = certificate
        self.rules = rules
        for channel in self._channels.values():
            channel.abort()

    def drop(self, peers: Iterable[str]) -> None:
        """These are members no more: what is open between us ends, and nothing new is opened."""
        gone = set(peers)
        for (peer, _), channel in self._channels.items():
            if peer in gone:
                channel.abort()
        for (peer, _), stream in self._accepted.items():
            if peer in gone:
                stream.abort()

    async def close(self) -> None:
        """Drop every channel."""
        for channel in list(self._channels.values()):
            channel.abort()
        await self.transport.close()

    def on_frame(self, kind: type, handler: FrameHandler, role: str | None = None) -> None:
        """Handle one-way messages of a kind, from members with `role` (any member: None), in order of arrival."""
        self._frame_handlers[kind] = handler, role

    def on_request(self, kind: type, handler: RequestHandler, role: str | None = None) -> None:
        """Answer requests of a kind, from members with `role` (any member: None)."""
        self._request_handlers[kind] = handler, role

    # --- going out -------------------------------------------------------------------------------------------------

    async def request(
        self,
        peer: str,
        message: object,
        payload: Payload = b"",
        *,
        lane: str | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Any, bytes]:
        """Ask a peer, payloads on the tensors' lane and all else on that of control, where no lane is named.

        Raises:
            PeerUnavailable: it cannot be reached; other errors as `ClientChannel.request`.
        """
        channel = await self.channel(peer, lane or (TENSORS if payload else CONTROL))
        return await channel.request(message, payload, deadline_s)

    async def send(self, peer: str, message: object, payload: Payload) -> None:
        """Send a one-way frame on the tensors' lane; raises PeerUnavailable."""
        channel = await self.channel(peer, TENSORS)
        await channel.send(message, payload)

    async def channel(self, peer: str, lane: str = CONTROL) -> ClientChannel:
        """The open channel to a peer, opened and greeted now if there is none."""
        key = (peer, lane)
        async with self._opening.setdefault(key, asyncio.Lock()):
            channel = self._channels.get(key)
            if channel is None or channel.closed.is_set():
                channel = await self._open(peer, lane)
                self._channels[key] = channel
        return channel

    async def _open(self, peer: str, lane: str) -> ClientChannel:
        try:
            async with asyncio.timeout(FIRST_S):
                stream = await self.transport.open(peer, lane)
                try:
                    roles = await self._greet(stream)
                except BaseException:
                    stream.abort()
                    raise
        except TimeoutError:
            raise PeerUnavailable(f"{peer} did not greet within {FIRST_S:.0f} s", "check its machine") from None
        return ClientChannel(stream, self._check_payload, roles)

    async def _greet(self, stream: ByteStream) -> tuple[str, ...]:
        write_frame(stream, Frame(Sort.REQUEST, 0, self._hello()))
        frame, _ = await read_frame(stream, _no_payload)
        if isinstance(frame.message, Failure):
            raise RefusedByPeer.from_failure(stream.remote_id, frame.message)
        if isinstance(frame.message, Revoke):
            self._take_dismissal(frame.message)
        if not isinstance(frame.message, Hello):
            raise ProtocolError("a peer answered the greeting with something else", "drop that peer")
        self._check_versions(stream.remote_id, frame.message)
        return self.membership.check(frame.message.certificate, stream.remote_id, time.time()).roles

    def _take_dismissal(self, message: Revoke) -> None:
        """A member shows why it does not talk to us; raises MembershipRevoked where the admin's seal says so, too."""
        self.membership.revoke(message.sealed)
        if self.peer_id in self.membership.revoked:
            raise MembershipRevoked("the admin revoked the membership of this peer", "ask the run's admin")

    def _hello(self) -> Hello:
        return Hello(version=PROTOCOL_VERSION, fingerprint=self.fingerprint, certificate=self.certificate)

    # --- coming in -------------------------------------------------------------------------------------------------

    async def _accept(self, lane: str, stream: ByteStream) -> None:
        """A stranger is dropped without an answer; whoever may talk to us is told what does not match."""
        try:
            async with asyncio.timeout(FIRST_S):
                roles = await self._admit_stream(stream)
            if roles:
                self._replace(stream.remote_id, lane, stream)
            check = self._check_payload if roles else _no_payload  # strangers have nothing to carry
            async with asyncio.timeout(None if roles else FIRST_S):
                await ServerChannel(stream, check, roles, self._dispatch).serve()
        except PeerUnavailable:
            pass
        except (SwarmError, TimeoutError):
            self.refused += 1
        finally:
            stream.abort()
            if self._accepted.get((stream.remote_id, lane)) is stream:
                del self._accepted[stream.remote_id, lane]

    def _replace(self, peer: str, lane: str, stream: ByteStream) -> None:
        """A member opens another stream of a lane when the one before is gone; many at once would be many buffers."""
        before = self._accepted.get((peer, lane))
        if before is not None:
            before.abort()
        self._accepted[peer, lane] = stream

    async def _admit_stream(self, stream: ByteStream) -> tuple[str, ...]:
        frame, _ = await read_frame(stream, _no_payload)
        hello = frame.message
        if not isinstance(hello, Hello):
            raise ProtocolError("a stream does not begin with a greeting", "drop that peer")
        if hello.certificate:
            roles = await self._roles_of(hello.certificate, stream)
        elif Admit in self._request_handlers:
            roles = ()
        else:
            raise NotAMember(f"{stream.remote_id} is a stranger", "join with an invite")
        try:
            self._check_versions(stream.remote_id, hello)
        except SwarmError as error:
            failure = Failure(code=error.code, problem=error.problem, remedy=error.remedy)
            write_frame(stream, Frame(Sort.FAILURE, 0, failure))
            await stream.drain()
            raise
        write_frame(stream, Frame(Sort.REPLY, 0, self._hello()))
        await stream.drain()
        return roles

    async def _roles_of(self, certificate: bytes, stream: ByteStream) -> tuple[str, ...]:
        try:
            return self.membership.check(certificate, stream.remote_id, time.time()).roles
        except NotAMember:
            if stream.remote_id in self.membership.revoked:
                write_frame(stream, Frame(Sort.REPLY, 0, Revoke(sealed=self.membership.proof(stream.remote_id))))
                await stream.drain()
            raise

    def _check_versions(self, peer: str, hello: Hello) -> None:
        if hello.version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"{peer} speaks protocol version {hello.version}, this peer {PROTOCOL_VERSION}",
                "install the same version of the software on both",
            )
        if hello.fingerprint != self.fingerprint:
            raise RunMismatch(
                f"{peer} is in run {hello.fingerprint[:12]}, this peer in {self.fingerprint[:12]}",
                "join with an invite of this run",
            )

    def _check_payload(self, message: object, payload_bytes: int) -> None:
        check_payload(message, payload_bytes, self.rules)

    def _dispatch(self, delivery: Delivery, wants_reply: bool) -> Awaitable[Reply] | None:
        kind = type(delivery.message)
        if not delivery.roles and kind not in _STRANGERS_MAY_SEND:
            raise NotAMember(f"the stranger {delivery.remote_id} sent {kind.__name__}", "join with an invite")
        if delivery.roles:
            self._heard_at_s[delivery.remote_id] = time.monotonic()
        if wants_reply:
            request_handler, role = self._request_handlers.get(kind, (_unknown, None))
            return _refuse(kind, role) if _lacks(delivery, role) else request_handler(delivery)
        frame_handler, role = self._frame_handlers.get(kind, (None, None))
        if frame_handler is None or _lacks(delivery, role):
            self.refused += 1
            delivery.release()
        else:
            frame_handler(delivery)
        return None


def _lacks(delivery: Delivery, role: str | None) -> bool:
    return role is not None and role not in delivery.roles


async def _refuse(kind: type, role: str | None) -> Reply:
    raise NotAMember(f"{kind.__name__} may only be sent by a {role}", "ask the admin for an invite with that role")


async def _unknown(delivery: Delivery) -> Reply:
    kind = type(delivery.message).__name__
    raise ProtocolError(f"this peer does not answer {kind}", "check which peer plays which role")


def _no_payload(message: object, payload_bytes: int) -> None:
    if payload_bytes:
        raise ProtocolError("a greeting, or a stranger, carries a payload", "drop that peer")
