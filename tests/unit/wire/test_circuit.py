"""The circuit relay's messages, byte by byte as libp2p's specification has them."""

from __future__ import annotations

import pytest

from swarm.errors import ProtocolError
from swarm.wire.circuit import (
    HopMessage,
    Kind,
    StopMessage,
    Verdict,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
)


def test_messages_are_those_of_the_specification() -> None:
    assert encode_hop(HopMessage(kind=Kind.RESERVE)) == b"\x02\x08\x00"
    assert encode_hop(HopMessage(kind=Kind.STATUS, verdict=Verdict.OK)) == b"\x04\x08\x02\x28\x64"
    assert encode_hop(HopMessage(kind=Kind.CONNECT, peer=b"ab")) == b"\x08\x08\x01\x12\x04\x0a\x02ab"
    assert encode_stop(StopMessage(kind=Kind.CONNECT, peer=b"ab")) == b"\x08\x08\x00\x12\x04\x0a\x02ab"
    assert encode_stop(StopMessage(kind=Kind.STATUS, verdict=Verdict.OK)) == b"\x04\x08\x01\x20\x64"


def test_what_was_sent_arrives() -> None:
    hop = HopMessage(kind=Kind.STATUS, verdict=Verdict.OK, expires_at_s=1_700_000_000, addresses=(b"one", b"two" * 99))
    framed = encode_hop(hop)
    assert decode_hop(framed[2:]) == hop, "more than 127 bytes have a length of two"
    stop = StopMessage(kind=Kind.CONNECT, peer=b"somebody")
    assert decode_stop(encode_stop(stop)[1:]) == stop


def test_what_is_damaged_or_unknown_is_no_success() -> None:
    for damaged in (b"\xff", b"\x08\x07", b"\x12\x7fab"):
        with pytest.raises(ProtocolError):
            decode_hop(damaged)
    assert decode_hop(b"\x08\x02\x28\x65").verdict is Verdict.UNEXPECTED_MESSAGE
