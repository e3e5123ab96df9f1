"""Boundary codecs: how activations and their gradients become bytes between two hosts.

| codec | bytes a value | error of a value x |
| --- | --- | --- |
| fp32 | 4 | 0 |
| bf16 | 2 | at most 2^-8 of abs(x); below 2^-126, at most 2^-134 |
| int8 | 1 + 4/128 | at most half a step; a step is its block's largest magnitude / 127 (`int8_error_bound`) |
| int4 | 73/128 | small beside its row; smaller where rows lie near few dimensions (`swarm/wire/four_bits.py`) |
| spectral | 0.2 | small where rows lie near few dimensions (`swarm/wire/spectral.py`) |

int8 cuts the flattened tensor into blocks of 128 values, each with an fp32 scale. 128 is a divisor of the usual hidden
widths, so that an outlier coarsens only its own token's neighbours; the scales cost 3 %. fp32 rather than fp16
scales: gradients of activations lie below fp16's smallest normal number, and the larger header buys nothing back.

Non-finite values stop here, on both ends. Buffers are little-endian.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence

import torch

from swarm.errors import NonFinite, ProtocolError
from swarm.wire import four_bits, spectral

# Received bytes are immutable and only ever read; torch warns although nothing writes.
warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)

CODECS = ("fp32", "bf16", "int8", "int4", "spectral")
INT8_BLOCK_VALUES = 128
BF16_RELATIVE_ERROR = 2.0**-8
BF16_DENORMAL_ERROR = 2.0**-134

_STEPS = 127.0
_SMALLEST_SCALE = 2.0**-126  # the smallest normal number: dividing by less would overflow
_LARGEST_SCALE = torch.finfo(torch.float32).max / 127 * (1 - 2**-23)  # so that 127 steps stay finite
_CHUNK_VALUES = 64 * 1024  # a chunk's temporaries stay in the second-level cache

if sys.byteorder != "little":
    raise ImportError("the swarm's wire is little-endian; this machine is not")


def encoded_bytes(codec: str, num_values: int) -> int:
    """Bytes that so many values take, exactly; checked before anything is allocated.

    Args:
        codec: one of `CODECS`.
        num_values: values in the tensor, >= 0.

    Raises:
        ProtocolError: an unknown codec.
    """
    if codec == "fp32":
        return 4 * num_values
    if codec == "bf16":
        return 2 * num_values
    if codec == "int8":
        return num_values + 4 * _blocks(num_values)
    if codec == "int4":
        return four_bits.encoded_bytes(num_values)
    if codec == "spectral":
        return spectral.encoded_bytes(num_values)
    raise ProtocolError(f"codec {codec!r} is unknown", f"use one of {', '.join(CODECS)}")


def encode(codec: str, tensor: torch.Tensor, *, gradient: bool = False) -> memoryview:
    """Put a tensor into bytes.

    Args:
        codec: one of `CODECS`.
        tensor: float32 or bfloat16, any shape and strides, any device.
        gradient: whether errors had better be zero on average than small: `spectral` can choose.

    Returns:
        `encoded_bytes` bytes. A contiguous CPU tensor that already has the codec's type is not copied: leave it
        unmodified until the bytes are sent.

    Raises:
        NonFinite: an infinity or a NaN, or a value that bf16 rounds to one.
        ProtocolError: an unknown codec, or a tensor of another dtype.
    """
    if tensor.dtype not in (torch.float32, torch.bfloat16):
        raise ProtocolError(f"a boundary tensor of {tensor.dtype}", "send float32 or bfloat16")
    encoded_bytes(codec, 0)
    flat = tensor.detach().cpu().reshape(-1).contiguous()
    if not flat.numel():
        return memoryview(b"")
    if codec == "int8":
        return _bytes_of(_quantize(flat.float()))
    if codec in ("int4", "spectral"):
        _require_finite(flat)
        matrix = flat.float().view(_matrix(tensor.shape))
        return _bytes_of(four_bits.quantize(matrix) if codec == "int4" else spectral.quantize(matrix, gradient))
    flat = flat.to(torch.float32 if codec == "fp32" else torch.bfloat16)
    _require_finite(flat)
    return _bytes_of(flat)


def decode(codec: str, buffer: bytes | bytearray | memoryview, shape: Sequence[int]) -> torch.Tensor:
    """Take a tensor out of bytes.

    Args:
        codec: one of `CODECS`.
        buffer: what `encode` made; for fp32 it should be aligned to 4 bytes.
        shape: of the tensor; agreed beforehand, not taken from the peer.

    Returns:
        float32 of that shape. For fp32 it shares the buffer's memory.

    Raises:
        ProtocolError: an unknown codec, or a buffer of another length.
        NonFinite: a value or a scale that is not finite.
    """
    num_values = math.prod(shape)
    expected_bytes = encoded_bytes(codec, num_values)
    view = memoryview(buffer)
    if view.nbytes != expected_bytes:
        raise ProtocolError(
            f"{view.nbytes} bytes for {codec} values of shape {list(shape)}, which take {expected_bytes}",
            "the peer runs another version or is at fault; drop the connection",
        )
    if not num_values:
        return torch.empty(tuple(shape))
    if codec == "int8":
        return _dequantize(torch.frombuffer(view, dtype=torch.int8), num_values).view(tuple(shape))
    if codec in ("int4", "spectral"):
        dequantize = four_bits.dequantize if codec == "int4" else spectral.dequantize
        values = dequantize(torch.frombuffer(view, dtype=torch.uint8), *_matrix(shape))
        _require_finite(values)
        return values.view(tuple(shape))
    flat = torch.frombuffer(view, dtype=torch.float32 if codec == "fp32" else torch.bfloat16)
    _require_finite(flat)
    return flat.float().view(tuple(shape))


def int8_error_bound(tensor: torch.Tensor) -> torch.Tensor:
    """The largest error that int8 may make: half a step, and what fp32 arithmetic rounds on the way.

    Args:
        tensor: float32, any shape.

    Returns:
        float64 of the same shape: a bound for each value.
    """
    flat = tensor.detach().double().reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % INT8_BLOCK_VALUES))
    largest = padded.view(-1, INT8_BLOCK_VALUES).abs().amax(1) if flat.numel() else flat
    step = (largest / _STEPS).clamp_min(_SMALLEST_SCALE)
    bound = step * (0.5 + 1e-4)
    return bound.repeat_interleave(INT8_BLOCK_VALUES)[: flat.numel()].view(tensor.shape)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Tokens and width."""
    columns = shape[-1] if shape else 1
    return math.prod(shape) // columns, columns


def _blocks(num_values: int) -> int:
    return -(-num_values // INT8_BLOCK_VALUES)


def _bytes_of(flat: torch.Tensor) -> memoryview:
    return flat.view(torch.uint8).numpy().data


def _require_finite(flat: torch.Tensor) -> None:
    low, high = torch.aminmax(flat)  # one pass, no temporary; a NaN anywhere comes out in both
    if not (math.isfinite(low.item()) and math.isfinite(high.item())):
        raise NonFinite("a boundary tensor holds an infinity or a NaN", "lower the learning rate or clip gradients")


def _quantize(flat: torch.Tensor) -> torch.Tensor:
    """Float32 (n,) to int8: n values, then the bytes of the blocks' fp32 scales."""
    num_values = flat.numel()
    payload = torch.empty(encoded_bytes("int8", num_values), dtype=torch.int8)
    scales = torch.empty(_blocks(num_values))
    whole = num_values - num_values % INT8_BLOCK_VALUES
    for start in range(0, whole, _CHUNK_VALUES):
        end = min(start + _CHUNK_VALUES, whole)
        _quantize_blocks(flat[start:end], payload[start:end], scales[start // INT8_BLOCK_VALUES :])
    if whole < num_values:
        _quantize_blocks(flat[whole:], payload[whole:num_values], scales[whole // INT8_BLOCK_VALUES :])
    payload[num_values:] = scales.view(torch.int8)
    return payload


def _quantize_blocks(values: torch.Tensor, quantized: torch.Tensor, scales: torch.Tensor) -> None:
    """Blocks of 128, or one shorter block, into `quantized` and the head of `scales`."""
    blocks = values.view(-1, min(INT8_BLOCK_VALUES, values.numel()))
    scale = blocks.abs().amax(dim=1, keepdim=True)
    _require_finite(scale)
    scale.div_(_STEPS).clamp_(_SMALLEST_SCALE, _LARGEST_SCALE)
    scales[: scale.numel()] = scale.view(-1)
    # The quotient rounds to at most 127 in magnitude: the block's largest value is the scale's numerator.
    quantized.view(blocks.shape).copy_((blocks / scale).round_())


def _dequantize(payload: torch.Tensor, num_values: int) -> torch.Tensor:
    scales = payload[num_values:].clone().view(torch.float32)  # cloned: odd lengths leave them unaligned
    _require_finite(scales)
    values = torch.empty(num_values)
    values.copy_(payload[:num_values])  # first converted, then scaled: torch multiplies mixed types slowly
    whole = num_values - num_values % INT8_BLOCK_VALUES
    values[:whole].view(-1, INT8_BLOCK_VALUES).mul_(scales[: whole // INT8_BLOCK_VALUES, None])
    values[whole:].mul_(scales[-1])
    _require_finite(values)
    return values
