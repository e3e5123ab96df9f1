"""Four bits a value, in two layers: the rows' parts of a few main directions first, then what is left of them.

Early in training a boundary's tokens are nearly alike: 98 % of their energy is what they have in common, and a step
that covers that is coarser than what tells them apart. So rows are brought to magnitudes of 1 to 2, a few main
directions are found, and directions and parts are rounded; the second layer holds what the rows differ by from what the
first one says, its errors included. Both layers are rounded alike, in blocks.

A block is 128 values of a flattened matrix; a shorter last one is filled up with zeros. Its product with the normalised
Hadamard matrix is rounded to -7 .. 7 steps of its half's largest magnitude / 7, two values a byte; the steps of all
blocks follow in bf16. That is 68 bytes a block. The rotation spreads an outlier over its block, so that no step becomes
coarse.

    4 bytes           fp32: the largest row's root mean square
    rows              octaves by which each row is smaller; 255 for a row of zeros
    blocks            the directions, one after the other
    blocks            the rows' parts, direction by direction
    blocks            the remainder, row by row

A payload takes 73 bytes for 128 values, 4.56 bits a value; what the remainder leaves of them decides how many
directions there are. A tensor too small for one has only the last part, of the values as they are, and zeros behind it.

Source: rotations before rounding as in QuaRot (Ashkboos et al., 2024) and TAH-Quant (He et al., 2025), which rounds
boundary activations of pipelines to 3 and 4 bits.
"""

from __future__ import annotations

import itertools
import math

import torch

from swarm.errors import NonFinite
from swarm.wire.directions import main_directions

BLOCK_VALUES = 128
MOST_STEPS = 7.0
_HALVES = 2
_BLOCK_BYTES = BLOCK_VALUES // 2 + 2 * _HALVES
_SHARE_BYTES = 73
"""Of a payload, for a block of the remainder."""
_TOP_BYTES = 4
_ZERO_ROW = 255
_SMALLEST_SCALE = 2.0**-126
_LARGEST = torch.finfo(torch.bfloat16).max
"""Of steps, and of values, which rounding may have brought beyond it."""
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
    return _blocks(num_values) * _SHARE_BYTES


def rank_of(rows: int, columns: int) -> int:
    """How many directions the first layer has; 0 where there is no room for one."""
    room = _blocks(rows * columns) * (_SHARE_BYTES - _BLOCK_BYTES) - _TOP_BYTES - rows
    rank = max(0, min(rows, columns, room // _BLOCK_BYTES * BLOCK_VALUES // (rows + columns)))
    while rank and (_blocks(rank * rows) + _blocks(rank * columns)) * _BLOCK_BYTES > room:
        rank -= 1
    return rank


def quantize(values: torch.Tensor) -> torch.Tensor:
    """Put values into bytes.

    Args:
        values: float32, (rows, columns), contiguous, CPU, finite.

    Returns:
        uint8, (`encoded_bytes`,).
    """
    rank = rank_of(*values.shape)
    if not rank:
        fields = [_rounded(values)]
    else:
        rms = _rms(values)
        top = rms.max().clamp_min(_SMALLEST_SCALE)
        octaves = torch.log2(top / rms).floor().clamp(0, _ZERO_ROW)
        scale = top * torch.exp2(-octaves)
        octaves[scale < _SMALLEST_SCALE] = _ZERO_ROW
        even = values * torch.where(octaves == _ZERO_ROW, 0.0, 1 / scale)
        directions, _ = main_directions(even, rank)
        directions = _rounded(directions.T)
        basis = _unit(_restored(directions, rank, values.shape[1]))
        parts = _rounded(basis @ even.T)
        remainder = even - _restored(parts, rank, values.shape[0]).T @ basis
        fields = [
            top.view(1).view(torch.uint8),
            octaves.to(torch.uint8).view(-1),
            directions,
            parts,
            _rounded(remainder),
        ]
    packed = torch.cat(fields)
    return torch.nn.functional.pad(packed, (0, encoded_bytes(values.numel()) - len(packed)))


def dequantize(payload: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Take values out of bytes.

    Args:
        payload: uint8, (`encoded_bytes`,); any bytes, as they may come from anybody.

    Returns:
        float32, (rows, columns).

    Raises:
        NonFinite: a scale that is not finite.
    """
    rank = rank_of(rows, columns)
    sizes = [_blocks(count) * _BLOCK_BYTES for count in (rank * columns, rank * rows, rows * columns)]
    if not rank:
        return _restored(payload[: sizes[2]], rows, columns).clamp_(-_LARGEST, _LARGEST)
    ends = list(itertools.accumulate([_TOP_BYTES, rows, *sizes]))
    top, octaves, directions, parts, remainder, _ = torch.tensor_split(payload, ends)
    basis = _unit(_restored(directions, rank, columns))
    even = _restored(remainder, rows, columns).addmm_(_restored(parts, rank, rows).T, basis)
    largest = top.clone().view(torch.float32)
    _require_finite(largest)
    small = octaves.float()[:, None]
    scale = torch.where(small == _ZERO_ROW, 0.0, largest * torch.exp2(-small))
    return even.mul_(scale).clamp_(-_LARGEST, _LARGEST)


def _blocks(num_values: int) -> int:
    return -(-num_values // BLOCK_VALUES)


def _rms(values: torch.Tensor) -> torch.Tensor:
    """Of rows, (rows, 1); squares of very large and very small values do not leave fp32's range."""
    largest = values.abs().amax(1, keepdim=True)
    return largest * (values / largest.clamp_min(_SMALLEST_SCALE)).square().mean(1, keepdim=True).sqrt()


def _unit(directions: torch.Tensor) -> torch.Tensor:
    unit: torch.Tensor = directions / directions.norm(dim=1, keepdim=True).clamp_min(_SMALLEST_SCALE)
    return unit


def _rounded(matrix: torch.Tensor) -> torch.Tensor:
    """Blocks of a matrix: their values, then their steps."""
    flat = matrix.reshape(-1)
    num_blocks = _blocks(flat.numel())
    blocks = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK_VALUES)).view(num_blocks, BLOCK_VALUES)
    packed = torch.empty(num_blocks, BLOCK_VALUES // 2, dtype=torch.uint8)
    steps = torch.empty(num_blocks, _HALVES, 1)
    for start in range(0, num_blocks, _CHUNK_BLOCKS):
        part = blocks[start : start + _CHUNK_BLOCKS]
        # Brought to 1 first, so that sums of very large values do not overflow and very small ones do not vanish.
        largest = part.abs().amax(1, keepdim=True).clamp_min_(_SMALLEST_SCALE)
        rotated = ((part / largest) @ _ROTATION).view(len(part), _HALVES, -1)
        step = rotated.abs().amax(2, keepdim=True).div_(MOST_STEPS).clamp_min_(_LEAST_STEP)
        steps[start : start + _CHUNK_BLOCKS] = (step * largest[:, :, None]).clamp_max_(_LARGEST)
        rounded = rotated.div_(step).round_().add_(8).view(len(part), BLOCK_VALUES).to(torch.uint8)
        packed[start : start + _CHUNK_BLOCKS] = rounded[:, ::2] | (rounded[:, 1::2] << 4)
    return torch.cat([packed.view(-1), steps.bfloat16().view(-1).view(torch.uint8)])


def _restored(blocks: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The matrix of such blocks."""
    num_blocks = _blocks(rows * columns)
    packed = blocks[: num_blocks * BLOCK_VALUES // 2].view(num_blocks, BLOCK_VALUES // 2)
    steps = blocks[num_blocks * BLOCK_VALUES // 2 :].clone().view(torch.bfloat16).float().view(-1, _HALVES, 1)
    _require_finite(steps)
    values = torch.empty(num_blocks, BLOCK_VALUES)
    for start in range(0, num_blocks, _CHUNK_BLOCKS):
        part = packed[start : start + _CHUNK_BLOCKS]
        rounded = torch.empty(len(part), BLOCK_VALUES)
        rounded[:, ::2] = part & 15
        rounded[:, 1::2] = part >> 4
        # Rotated back at a magnitude of 1, so that very large steps do not overflow on the way.
        step = steps[start : start + _CHUNK_BLOCKS]
        largest = step.amax(1).clamp_min_(_SMALLEST_SCALE)
        rounded.sub_(8).view(len(part), _HALVES, -1).mul_(step / largest[:, :, None])
        into = values[start : start + _CHUNK_BLOCKS]
        torch.mm(rounded, _ROTATION, out=into)
        into.mul_(largest)
    return values.view(-1)[: rows * columns].view(rows, columns)


def _require_finite(scales: torch.Tensor) -> None:
    if not bool(torch.isfinite(scales).all()):
        raise NonFinite("a boundary tensor's scales are not finite", "drop that peer")
