"""One frame: a 12-byte prefix, a small msgpack header, then raw payload bytes.

    prefix   header length u32, payload length u64, little endian
    header   [sort, request, message]
    payload  tensor bytes as the message's schema says, nothing else

The sizes are checked from the prefix, before a byte of the header or payload is read or allocated.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Any

import msgpack

from swarm.errors import ProtocolError, TooLarge
from swarm.wire import codec

_PREFIX = struct.Struct("<IQ")
PREFIX_BYTES = _PREFIX.size
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 1 << 28


class Sort(enum.IntEnum):
    """What a frame is to the channel that carries it."""

    ONE_WAY = 0
    REQUEST = 1
    REPLY = 2
    FAILURE = 3
    CREDIT = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame without its payload.

    Attributes:
        request: pairs a reply with its request; bytes returned, for CREDIT.
        message: a registered message; None for CREDIT.
    """

    sort: Sort
    request: int
    message: Any


def encode_frame(frame: Frame, payload_bytes: int) -> bytes:
    """Prefix and header; the payload follows as it is, uncopied.

    Raises:
        TooLarge: the header or payload is over its cap.
    """
    body = None if frame.message is None else codec.flatten(frame.message)
    header: bytes = msgpack.packb([int(frame.sort), frame.request, body], use_bin_type=True)
    _check_sizes(len(header), payload_bytes)
    return _PREFIX.pack(len(header), payload_bytes) + header


def decode_prefix(prefix: bytes) -> tuple[int, int]:
    """Header and payload length in bytes; raises TooLarge as `encode_frame` does."""
    header_bytes, payload_bytes = _PREFIX.unpack(prefix)
    _check_sizes(header_bytes, payload_bytes)
    return header_bytes, payload_bytes


def decode_header(header: bytes) -> Frame:
    """The frame that a header describes.

    Raises:
        ProtocolError: not a header of this protocol.
    """
    values = codec.unpack(header)
    if not isinstance(values, list) or len(values) != 3 or type(values[0]) is not int or type(values[1]) is not int:
        raise ProtocolError("a frame's header is not [sort, request, message]", "drop that peer")
    try:
        sort = Sort(values[0])
    except ValueError:
        raise ProtocolError(f"a frame is of the unknown sort {values[0]}", "drop that peer") from None
    if sort is Sort.CREDIT:
        return Frame(sort, values[1], None)
    return Frame(sort, values[1], codec.restore(values[2]))


def _check_sizes(header_bytes: int, payload_bytes: int) -> None:
    if header_bytes > MAX_HEADER_BYTES:
        raise TooLarge(f"a header of {header_bytes} bytes is over {MAX_HEADER_BYTES}", "drop that peer")
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise TooLarge(f"a payload of {payload_bytes} bytes is over {MAX_PAYLOAD_BYTES}", "use smaller microbatches")
