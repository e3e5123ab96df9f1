"""A payload is refused by what its header says, before it is read."""

from __future__ import annotations

import pytest

from swarm.errors import ProtocolError
from swarm.wire.compression import encoded_bytes
from swarm.wire.messages import Ack, Activation, Admitted, BoundaryGradient, Hello, Lease, SpeedProbe, StateChunk, Work
from swarm.wire.payloads import MAX_CHUNK_BYTES, MAX_PROBE_BYTES, MAX_TOKENIZER_BYTES, PayloadRules, check_payload

SHAPE = (2, 8, 16)


def _tensor(
    kind: type[Activation] | type[BoundaryGradient], codec: str = "bf16", shape: tuple[int, ...] = SHAPE
) -> object:
    return kind(plan=1, work=Work(0, Lease(0, 0), 0), stage=0, owner="o", route=("h",), codec=codec, shape=shape)


@pytest.mark.parametrize("kind", [Activation, BoundaryGradient])
@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int4"])
def test_a_tensor_has_exactly_its_size(kind: type[Activation], codec: str) -> None:
    rules = PayloadRules(SHAPE, ("fp32", "bf16", "int8", "int4"))
    size = encoded_bytes(codec, 2 * 8 * 16)
    rules.check(_tensor(kind, codec), size)
    for wrong in (0, size - 1, size + 1, 2 * size):
        with pytest.raises(ProtocolError, match=f"has {wrong} bytes, not {size}"):
            rules.check(_tensor(kind, codec), wrong)


@pytest.mark.parametrize("shape", [(2, 8, 17), (1, 8, 16), (16, 8, 2), (2, 128), (2, 8, 16, 1), (256,)])
def test_another_shape_is_refused_although_the_bytes_might_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="this run's are"):
        PayloadRules(SHAPE, ("bf16",)).check(_tensor(Activation, shape=shape), 2 * 2 * 8 * 16)


def test_another_codec_is_refused() -> None:
    with pytest.raises(ProtocolError, match="is fp32"):
        PayloadRules(SHAPE, ("bf16",)).check(_tensor(Activation, "fp32"), 4 * 2 * 8 * 16)


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        (SpeedProbe(), MAX_PROBE_BYTES),
        (StateChunk(), MAX_CHUNK_BYTES),
        (Admitted(certificate=b"", run_json=""), MAX_TOKENIZER_BYTES),
        (Ack(), 0),
        (Hello(version=1, fingerprint="", certificate=b""), 0),
        (None, 0),
    ],
)
def test_other_messages_have_a_cap(message: object, allowed: int) -> None:
    rules = PayloadRules(SHAPE, ("fp32",))
    check_payload(message, allowed, rules)
    with pytest.raises(ProtocolError, match=f"{allowed + 1} bytes where {allowed} are allowed"):
        check_payload(message, allowed + 1, rules)
