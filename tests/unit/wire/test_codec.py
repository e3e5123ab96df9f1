"""Whatever arrives is either a message that this program could have made, or a ProtocolError."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import ProtocolError
from swarm.wire import codec
from swarm.wire.messages import Hello, Lease, MicrobatchDone, Orders, StepApplied, Work
from tests.support.runs import capabilities, heartbeat
from tests.support.strategies import KINDS, message_of, messages

_RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _decodes_or_refuses(data: bytes) -> bool:
    """Whether the bytes are a message; anything but a ProtocolError otherwise is a failure."""
    try:
        found = codec.decode(data)
    except ProtocolError:
        return False
    assert type(found) in KINDS.values()
    codec.encode(found)
    return True


@pytest.mark.parametrize("kind", sorted(KINDS), ids=lambda kind: KINDS[kind].__name__)
def test_every_message_survives_the_way(kind: int) -> None:
    @settings(_RELAXED, max_examples=25)
    @given(message_of(KINDS[kind]))
    def check(message: Any) -> None:
        found = codec.decode(codec.encode(message))
        assert type(found) is type(message)
        assert found == message

    check()


TOPICS = ("announcements", "leadership", "meeting", "microbatch", "state", "step")


def test_no_kind_is_left_out() -> None:
    assert set(KINDS) == set(codec.registered())
    modules = {cls.__module__ for cls in KINDS.values()}
    topics = {f"swarm.wire.messages.{topic}" for topic in TOPICS}
    assert modules == {"swarm.admission", "swarm.plan", *topics}


def test_a_number_is_never_given_twice() -> None:
    with pytest.raises(ValueError, match="kind 10 is taken by Hello"):
        codec.message(10)(type("Other", (), {}))


def test_random_bytes_are_refused() -> None:
    dice = random.Random(1)
    accepted = sum(_decodes_or_refuses(dice.randbytes(dice.randrange(1, 64))) for _ in range(20_000))
    assert accepted < 20  # two bytes in the right places can be an Ack


@settings(_RELAXED, max_examples=400)
@given(messages(), st.integers(0, 2**32))
def test_mutated_messages_are_refused_or_still_messages(message: Any, seed: int) -> None:
    dice = random.Random(seed)
    encoded = codec.encode(message)
    for _ in range(64):  # 25,600 in all
        mutated = bytearray(encoded)
        for _ in range(dice.randint(1, 3)):
            position = dice.randrange(len(mutated))
            match dice.randrange(4):
                case 0:
                    mutated[position] = dice.randrange(256)
                case 1:
                    mutated[position] ^= 1 << dice.randrange(8)
                case 2:
                    mutated[position:position] = dice.randbytes(dice.randint(1, 4))
                case _:
                    del mutated[position : position + dice.randint(1, 4)]
            if not mutated:
                break
        _decodes_or_refuses(bytes(mutated))


@settings(_RELAXED, max_examples=200)
@given(messages(), st.data())
def test_a_cut_message_is_refused(message: Any, data: st.DataObject) -> None:
    encoded = codec.encode(message)
    with pytest.raises(ProtocolError):
        codec.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(ProtocolError):
        codec.decode(encoded + b"\x00")


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=24,
)


@settings(_RELAXED, max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.lists(_PLAIN, max_size=10))
def test_fields_of_any_other_type_are_refused(kind: int, fields: list[Any]) -> None:
    _decodes_or_refuses(msgpack.packb([kind, *fields]))


# --- bombs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1 entries
        b"\xdc\xff\xff" * 1000,  # a thousand arrays of 65,535, each in the one before
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\x81\xa1a\x01",
        b"\x92\x0c\x81\xa1a\x01",
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\xdb\xff\xff\xff\xff",  # text
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\xc7\x00\x05",
        b"\x91" * 200_000 + b"\x01",
        b"\x92\x0c\xa1\xff",  # text that is not UTF-8
        b"\xc1",
        b"",
    ],
    ids=lambda data: data[:6].hex() + f"+{len(data)}",
)
def test_bombs_cost_nothing(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            codec.decode(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_a_sequence_has_a_cap() -> None:
    largest = Orders(items=(b"",) * codec.MAX_ITEMS)
    assert codec.decode(codec.encode(largest)) == largest
    with pytest.raises(ProtocolError):
        codec.decode(codec.encode(Orders(items=(b"",) * (codec.MAX_ITEMS + 1))))


# --- types -----------------------------------------------------------------------------------------------------------


def _with_field(message: object, position: int, value: object) -> bytes:
    fields = codec.flatten(message)
    fields[position] = value
    return bytes(msgpack.packb(fields))


_READY = StepApplied(step=1, stage=2, digest="d")
_CAPABLE = capabilities()


@pytest.mark.parametrize(
    ("message", "position", "value"),
    [
        (_READY, 1, True),
        (_READY, 1, 1.0),
        (_READY, 1, "1"),
        (_READY, 1, None),
        (_READY, 3, b"d"),
        (_READY, 3, 7),
        (Hello(version=1, fingerprint="f", certificate=b""), 3, "text"),
        (Orders(items=()), 1, b""),
        (Orders(items=()), 1, ["text"]),
        (_CAPABLE, 4, True),
        (_CAPABLE, 4, "0.5"),
        (_CAPABLE, 1, "host"),
        (_CAPABLE, 1, [["host"]]),
    ],
)
def test_a_value_of_another_type_is_refused(message: object, position: int, value: object) -> None:
    with pytest.raises(ProtocolError, match=r"\[S400\]"):
        codec.decode(_with_field(message, position, value))


def test_an_integer_may_stand_for_a_float_but_not_the_other_way() -> None:
    found = codec.decode(_with_field(_CAPABLE, 4, 3))
    assert type(found.layer_seconds) is float


@pytest.mark.parametrize("fields", [[1, 2], [1, 2, "d", 5], []])
def test_the_number_of_fields_must_match(fields: list[object]) -> None:
    with pytest.raises(ProtocolError, match="StepApplied has"):
        codec.decode(msgpack.packb([59, *fields]))


@pytest.mark.parametrize("kind", [0, 9_999, -1, 2**63])
def test_an_unknown_kind_is_named(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown kind {kind}"):
        codec.decode(msgpack.packb([kind]))


@pytest.mark.parametrize("values", [[], 12, "x", None, [True], [None, 1], [12.0], [[12]]])
def test_a_message_begins_with_its_kind(values: object) -> None:
    with pytest.raises(ProtocolError, match="does not start with its kind"):
        codec.decode(msgpack.packb(values))


@pytest.mark.parametrize(
    ("message", "position", "value"),
    [
        (_CAPABLE, 3, -1),
        (_CAPABLE, 4, float("nan")),
        (_CAPABLE, 5, float("inf")),
        (
            MicrobatchDone(work=Work(0, Lease(0, 0), 0), route=("a",), tokens=1, loss_sum=0.0, cursor=0),
            1,
            [0, [-1, 0], 0],
        ),
    ],
)
def test_a_value_that_the_class_refuses_is_a_protocol_error(message: object, position: int, value: object) -> None:
    with pytest.raises(ProtocolError, match="cannot be"):
        codec.decode(_with_field(message, position, value))


def test_a_subclass_or_stranger_cannot_be_encoded() -> None:
    with pytest.raises(KeyError):
        codec.encode(Lease(0, 0))
    assert codec.decode(codec.encode(heartbeat(0, "ü\0"))).waiting_for == "ü\0"
