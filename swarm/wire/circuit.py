"""libp2p's circuit relay, version 2, as far as a relay and whoever reserves a slot there speak it.

Source: https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md. Messages are protobuf, each with its length
before it as a varint. A response without a limit tells both ends that the circuit lasts as long as they like.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from swarm.errors import ProtocolError

HOP = "/libp2p/circuit/relay/0.2.0/hop"
"""To the relay."""
STOP = "/libp2p/circuit/relay/0.2.0/stop"
"""From the relay to the peer that is called."""
MAX_BYTES = 4096
"""Of a message: as libp2p's own implementations."""
CIRCUIT = "p2p-circuit"
"""The part of a multiaddress that says so."""


class Kind(enum.IntEnum):
    """Of a message to or from a relay."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class Verdict(enum.IntEnum):
    """A relay's, or the called peer's."""

    NONE = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class HopMessage:
    """Between a peer and a relay.

    Attributes:
        peer: that is called, as libp2p's bytes; of CONNECT only.
        expires_at_s: of the slot, since 1970; of the answer to RESERVE only.
        addresses: of the relay, as libp2p's bytes; likewise.
    """

    kind: Kind
    verdict: Verdict = Verdict.NONE
    peer: bytes = b""
    expires_at_s: int = 0
    addresses: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMessage:
    """Between a relay and the peer that is called.

    Attributes:
        peer: that calls, as libp2p's bytes; of CONNECT only.
    """

    kind: Kind
    verdict: Verdict = Verdict.NONE
    peer: bytes = b""


def encode_hop(message: HopMessage) -> bytes:
    """With its length before it."""
    wire = _HOP(type=int(message.kind))
    if message.verdict:
        wire.status = int(message.verdict)
    if message.peer:
        wire.peer.id = message.peer
    if message.expires_at_s:
        wire.reservation.expire = message.expires_at_s
        wire.reservation.addrs.extend(message.addresses)
    return _framed(wire.SerializeToString())


def encode_stop(message: StopMessage) -> bytes:
    """With its length before it."""
    wire = _STOP(type=int(message.kind) - 1)  # a called peer knows no RESERVE, so its kinds begin one later
    if message.verdict:
        wire.status = int(message.verdict)
    if message.peer:
        wire.peer.id = message.peer
    return _framed(wire.SerializeToString())


def decode_hop(data: bytes) -> HopMessage:
    """A message without its length; raises ProtocolError."""
    wire = _parsed(_HOP, data)
    slot = wire.reservation
    return HopMessage(
        kind=_kind(wire.type),
        verdict=_verdict(wire.status),
        peer=bytes(wire.peer.id),
        expires_at_s=int(slot.expire),
        addresses=tuple(map(bytes, slot.addrs)),
    )


def decode_stop(data: bytes) -> StopMessage:
    """A message without its length; raises ProtocolError."""
    wire = _parsed(_STOP, data)
    return StopMessage(kind=_kind(wire.type + 1), verdict=_verdict(wire.status), peer=bytes(wire.peer.id))


def _framed(body: bytes) -> bytes:
    length, head = len(body), bytearray()
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def _parsed(kind: Any, data: bytes) -> Any:
    wire = kind()
    try:
        wire.ParseFromString(data)
    except DecodeError:
        raise ProtocolError("a message about a relayed connection is damaged", "drop that peer") from None
    return wire


def _kind(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise ProtocolError(f"a relay's message has the kind {number}", "drop that peer") from None


def _verdict(number: int) -> Verdict:
    """What we do not know is no success."""
    return Verdict(number) if number in list(Verdict) else Verdict.UNEXPECTED_MESSAGE


def _schema() -> tuple[Any, Any]:
    """The two message classes, from the specification's field numbers."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="swarm_circuit.proto", package="swarm.circuit", syntax="proto2")

    def add(name: str, fields: Iterable[tuple[int, str, int, str]]) -> None:
        described = file.message_type.add(name=name)
        for number, label, sort, kind in fields:
            repeated = label.endswith("*")
            described.field.add(
                name=label.rstrip("*"),
                number=number,
                type=sort,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type_name=f".swarm.circuit.{kind}" if kind else None,
            )

    add("Peer", [(1, "id", field.TYPE_BYTES, ""), (2, "addrs*", field.TYPE_BYTES, "")])
    add("Slot", [(1, "expire", field.TYPE_UINT64, ""), (2, "addrs*", field.TYPE_BYTES, "")])
    number = field.TYPE_UINT32  # on the wire an enumeration is a number
    peer = (2, "peer", field.TYPE_MESSAGE, "Peer")
    slot = (3, "reservation", field.TYPE_MESSAGE, "Slot")
    add("Hop", [(1, "type", number, ""), peer, slot, (5, "status", number, "")])
    add("Stop", [(1, "type", number, ""), peer, (4, "status", number, "")])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"swarm.circuit.{name}") for name in ("Hop", "Stop")]
    hop, stop = map(message_factory.GetMessageClass, found)
    return hop, stop


_HOP, _STOP = _schema()
