"""Four bits a value: blocks are rotated first, so that an outlier is spread over its block and no step becomes coarse.

A block is 128 values of the flattened tensor; a shorter last one is filled up with zeros. Each quarter of its product
with the normalised Hadamard matrix is rounded to -7 .. 7 steps of its largest magnitude / 7, two values a byte, all
blocks one after the other; then come the quarters' steps in bf16. That is 4.5 bits a value. The rotation keeps lengths,
so the error of a whole block is at most sqrt(128) / 2 of its largest steps long; it spreads evenly over the block. One
step a block would save 0.4 bits, and cost half as much again in loss.

Source: rotations before rounding as in QuaRot (Ashkboos et al., 2024) and TAH-Quant (He et al., 2025), which rounds
boundary activations of pipelines to 3 and 4 bits.
"""

from __future__ import annotations

import math

import torch

BLOCK_VALUES = 128
MOST_STEPS = 7.0
_QUARTERS = 4
_STEPS_BYTES = 2 * _QUARTERS
_BLOCK_BYTES = BLOCK_VALUES // 2 + _STEPS_BYTES
_SMALLEST_SCALE = 2.0**-126
_LEAST_STEP = 2.0**-16
"""Of a block of zeros."""
_CHUNK_BLOCKS = 1024
"""Blocks whose temporaries stay in the cache."""


def _hadamard() -> torch.Tensor:
    """Its own inverse: symmetric, orthogonal, [128, 128]."""
    matrix = torch.ones(1, 1)
    while len(matrix) < BLOCK_VALUES:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(BLOCK_VALUES)


_ROTATION = _hadamard()


def encoded_bytes(num_values: int) -> int:
    """Bytes that so many values take."""
    return -(-num_values // BLOCK_VALUES) * _BLOCK_BYTES


def quantize(flat: torch.Tensor) -> torch.Tensor:
    """Put values into bytes.

    Args:
        flat: float32, (n,), contiguous, CPU.

    Returns:
        uint8, (`encoded_bytes`,). A value that is not finite, or so large that its block's rotation is not, leaves a
        step that is not: `steps_of` finds it.
    """
    num_blocks = -(-flat.numel() // BLOCK_VALUES)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK_VALUES)).view(num_blocks, BLOCK_VALUES)
    payload = torch.empty(encoded_bytes(flat.numel()), dtype=torch.uint8)
    packed = payload[: num_blocks * BLOCK_VALUES // 2].view(num_blocks, BLOCK_VALUES // 2)
    steps = torch.empty(num_blocks, _QUARTERS, 1)
    for start in range(0, num_blocks, _CHUNK_BLOCKS):
        part = blocks[start : start + _CHUNK_BLOCKS]
        # Brought to 1 first, so that sums of very large values do not overflow and very small ones do not vanish.
        largest = part.abs().amax(1, keepdim=True).clamp_min_(_SMALLEST_SCALE)
        rotated = ((part / largest) @ _ROTATION).view(len(part), _QUARTERS, -1)
        step = rotated.abs().amax(2, keepdim=True).div_(MOST_STEPS).clamp_min_(_LEAST_STEP)
        steps[start : start + _CHUNK_BLOCKS] = (step * largest[:, :, None]).bfloat16()
        rounded = rotated.div_(step).round_().add_(8).view(len(part), BLOCK_VALUES).to(torch.uint8)
        packed[start : start + _CHUNK_BLOCKS] = rounded[:, ::2] | (rounded[:, 1::2] << 4)
    payload[num_blocks * BLOCK_VALUES // 2 :] = steps.bfloat16().view(-1).view(torch.uint8)
    return payload


def steps_of(payload: torch.Tensor) -> torch.Tensor:
    """The quarters' steps: bfloat16, (4 * blocks,)."""
    num_blocks = payload.numel() // _BLOCK_BYTES
    return payload[num_blocks * BLOCK_VALUES // 2 :].clone().view(torch.bfloat16)


def dequantize(payload: torch.Tensor, num_values: int) -> torch.Tensor:
    """Take values out of bytes.

    Args:
        payload: uint8, (`encoded_bytes`,); any bytes, as they may come from anybody.

    Returns:
        float32, (n,).
    """
    steps = steps_of(payload).float().view(-1, _QUARTERS, 1)
    num_blocks = len(steps)
    packed = payload[: num_blocks * BLOCK_VALUES // 2].view(num_blocks, BLOCK_VALUES // 2)
    values = torch.empty(num_blocks, BLOCK_VALUES)
    for start in range(0, num_blocks, _CHUNK_BLOCKS):
        part = packed[start : start + _CHUNK_BLOCKS]
        rounded = torch.empty(len(part), BLOCK_VALUES)
        rounded[:, ::2] = part & 15
        rounded[:, 1::2] = part >> 4
        # Rotated back at a magnitude of 1, so that very large steps do not overflow on the way.
        step = steps[start : start + _CHUNK_BLOCKS]
        largest = step.amax(1).clamp_min_(_SMALLEST_SCALE)
        rounded.sub_(8).view(len(part), _QUARTERS, -1).mul_(step / largest[:, :, None])
        into = values[start : start + _CHUNK_BLOCKS]
        torch.mm(rounded, _ROTATION, out=into)
        into.mul_(largest)
    return values.view(-1)[:num_values]


def error_bound(tensor: torch.Tensor) -> torch.Tensor:
    """The largest error that any value of a block may have: half of the largest step in each of its 128 directions.

    Args:
        tensor: float32, any shape.

    Returns:
        float64 of the same shape: a bound for each value.
    """
    flat = tensor.detach().double().reshape(-1)
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK_VALUES)).view(-1, BLOCK_VALUES)
    steps = (blocks @ _ROTATION.double()).abs().amax(1) / MOST_STEPS
    rounding = 2.0**-8 * MOST_STEPS  # of the step itself, which is sent in bf16
    bounds = math.sqrt(BLOCK_VALUES) * (steps * (0.5 + rounding) + _SMALLEST_SCALE)
    return bounds.repeat_interleave(BLOCK_VALUES)[: flat.numel()].view(tensor.shape)
