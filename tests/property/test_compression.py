"""Boundary codecs: round trips within their stated errors, and nothing malformed gets through."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard

from swarm.errors import NonFinite, ProtocolError
from swarm.wire.compression import (
    BF16_DENORMAL_ERROR,
    BF16_RELATIVE_ERROR,
    CODECS,
    INT8_BLOCK_VALUES,
    decode,
    encode,
    encoded_bytes,
    int8_error_bound,
)

LARGEST = torch.finfo(torch.float32).max
LARGEST_BF16 = torch.finfo(torch.bfloat16).max
SMALLEST = 2.0**-149
SMALLEST_NORMAL = 2.0**-126

codecs = st.sampled_from(CODECS)
values = st.one_of(
    st.floats(-LARGEST_BF16, LARGEST_BF16, width=32),
    st.floats(-1, 1, width=32),
    st.sampled_from([0.0, -0.0, SMALLEST, -SMALLEST, 2.0**-126, LARGEST_BF16, -LARGEST_BF16]),
)
shapes = st.lists(st.integers(0, 20), max_size=3).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Float32 of any shape and order of magnitude, with a few exact values; sometimes a transposed view."""
    shape = draw(shapes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    exponent = draw(st.integers(-140, 120))
    tensor = torch.randn(shape, generator=generator) * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)
    flat = tensor.view(-1)
    for value in draw(st.lists(values, max_size=4)):
        if flat.numel():
            flat[draw(st.integers(0, flat.numel() - 1))] = value
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


def int4_error_bound(tensor: torch.Tensor) -> torch.Tensor:
    """Of a tensor too small for a first layer: half of the largest step in each of a block's 128 directions."""
    flat = tensor.detach().double().reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % 128)).view(-1, 128)
    rotation = torch.from_numpy(hadamard(128, dtype=float)) / math.sqrt(128)
    steps = (blocks @ rotation).abs().amax(1) / 7
    bounds = math.sqrt(128) * (steps * (0.5 + 7 * 2.0**-8) + SMALLEST_NORMAL)  # a step itself is sent in bf16
    return bounds.repeat_interleave(128)[: flat.numel()].view(tensor.shape)


def bound(codec: str, tensor: torch.Tensor) -> torch.Tensor:
    if codec == "int8":
        return int8_error_bound(tensor)
    if codec == "int4":
        return int4_error_bound(tensor)
    if codec == "bf16":
        return (tensor.double().abs() * BF16_RELATIVE_ERROR).clamp_min(BF16_DENORMAL_ERROR)
    return torch.zeros(tensor.shape, dtype=torch.float64)


@given(codec=codecs, tensor=tensors(), offset=st.integers(0, 3))
def test_round_trips_stay_within_the_stated_error(codec: str, tensor: torch.Tensor, offset: int) -> None:
    encoded = encode(codec, tensor)
    assert encoded.nbytes == encoded_bytes(codec, tensor.numel())
    buffer = bytearray(offset) + encoded  # frames do not align what they carry
    back = decode(codec, memoryview(buffer)[offset:], tensor.shape)
    assert back.dtype == torch.float32
    assert back.shape == tensor.shape
    if codec == "spectral":
        error, whole = (back.double() - tensor.double()).norm(), tensor.double().norm()
        assert float(error) <= 1.1 * float(whole) + SMALLEST_NORMAL * math.sqrt(tensor.numel())
    else:
        assert bool(((back.double() - tensor.double()).abs() <= bound(codec, tensor)).all())


@given(codec=codecs, tensor=tensors())
def test_bf16_tensors_are_accepted_and_zero_stays_zero(codec: str, tensor: torch.Tensor) -> None:
    halved = (tensor / 2).bfloat16()
    back = decode(codec, encode(codec, halved), halved.shape)
    if codec in ("fp32", "bf16"):
        assert torch.equal(back, halved.float())
    assert not decode(codec, encode(codec, torch.zeros_like(tensor)), tensor.shape).any()


@given(codec=codecs, tensor=tensors(), bad=st.sampled_from([math.nan, math.inf, -math.inf]), data=st.data())
def test_non_finite_values_stop_at_the_door(codec: str, tensor: torch.Tensor, bad: float, data: st.DataObject) -> None:
    if not tensor.numel():
        return
    tensor = tensor.contiguous()
    tensor.view(-1)[data.draw(st.integers(0, tensor.numel() - 1))] = bad
    with pytest.raises(NonFinite):
        encode(codec, tensor)


@pytest.mark.parametrize("codec", CODECS)
def test_non_finite_bytes_are_not_decoded(codec: str) -> None:
    encoded = bytearray(encode(codec, torch.ones(200)))
    place = {"spectral": slice(4), "int4": slice(128, 132)}.get(codec, slice(-4, None))  # of a value or of a scale
    for infinity in (b"\x00\x00\x80\x7f", b"\x80\x7f\x80\x7f"):  # in fp32 and in bf16
        encoded[place] = infinity
        with pytest.raises(NonFinite):
            decode(codec, encoded, (200,))


def test_int8_scales_that_overflow_are_not_decoded() -> None:
    encoded = bytearray(encode("int8", torch.ones(INT8_BLOCK_VALUES)))
    encoded[-4:] = torch.tensor([LARGEST]).numpy().tobytes()
    with pytest.raises(NonFinite):
        decode("int8", encoded, (INT8_BLOCK_VALUES,))


@given(codec=codecs, num_values=st.integers(0, 400), error=st.sampled_from([-4, -1, 1, 4]))
def test_buffers_of_another_length_are_refused(codec: str, num_values: int, error: int) -> None:
    buffer = bytes(max(0, encoded_bytes(codec, num_values) + error))
    if len(buffer) != encoded_bytes(codec, num_values):
        with pytest.raises(ProtocolError):
            decode(codec, buffer, (num_values,))


@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_the_largest_values_survive(codec: str) -> None:
    tensor = torch.tensor([LARGEST, -LARGEST, 1.0])
    back = decode(codec, bytearray(encode(codec, tensor)), (3,))
    assert bool(((back.double() - tensor.double()).abs() <= bound(codec, tensor)).all())


def test_bf16_refuses_what_it_would_round_to_infinity() -> None:
    with pytest.raises(NonFinite):
        encode("bf16", torch.tensor([LARGEST]))


def test_fp32_is_not_copied() -> None:
    tensor = torch.ones(8)
    buffer = bytearray(encode("fp32", tensor))
    encoded, back = encode("fp32", tensor), decode("fp32", buffer, (8,))
    tensor[0] = 5.0
    assert bytes(encoded[:4]) == torch.tensor([5.0]).numpy().tobytes()
    buffer[:4] = encoded[:4]
    assert back[0] == 5.0


def test_unknown_codecs_and_types_are_refused() -> None:
    for call in (lambda: encode("zip", torch.ones(1)), lambda: decode("zip", b"", (0,)), lambda: encoded_bytes("", 1)):
        with pytest.raises(ProtocolError):
            call()
    with pytest.raises(ProtocolError):
        encode("fp32", torch.ones(1, dtype=torch.float64))
