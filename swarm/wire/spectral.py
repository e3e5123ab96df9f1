"""A twentieth of fp32: a boundary tensor's main directions, and what each token has of them in a few bits.

Rows are tokens, columns the model's width. Activations and their gradients lie near a space of few dimensions: of width
128, 32 directions hold 91 to 99 % of the energy. Each row is brought to length one, the main directions of all rows are
found, and every row's part of each direction is rounded to so many bits as pay: as in transform coding, a bit goes
where it takes away most. A payload takes the same number of bytes whatever is in it; the rest is zeros.

    4 bytes     fp32: the largest row's root mean square
    2 bytes     r, the number of directions
    r / 2       bits of each, two in a byte
    4 r         bf16: steps of the parts, then those of the directions
    rows        quarter octaves by which each row is smaller than the largest; 255 for a row of zeros
    r * columns int8: the directions
    the rest    the parts, direction by direction, one bit of all rows after the other

Nothing is kept from one tensor to the next: peers come and go, and whatever both ends would have to remember about each
other would be one more thing to lose.

Source: reverse water-filling (Shannon, 1959); step sizes of uniform quantisers of a normal value (Max, 1960); the space
of main directions by randomised subspace iteration (Halko, Martinsson and Tropp, 2011).
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from swarm.errors import NonFinite, ProtocolError

Bytes = npt.NDArray[np.uint8]

RATIO = 20
"""Bytes of fp32 over bytes sent."""
MOST_BITS = 8
_LEAST_BYTES = 64
_HEAD_BYTES = 6
_STEPS = (0.0, 1.5958, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)
"""By bits: of the uniform quantiser that is best for a normal value of variance 1."""
_LEFT = (1.0, 0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.001041, 0.000304, 0.0000877)
"""By bits: of the variance."""
_OCTAVE = 4.0
_ZERO_ROW = 255
_SPARE_DIRECTIONS = 8
_SMALLEST = 2.0**-126


def encoded_bytes(num_values: int) -> int:
    """Bytes that so many values take."""
    return max(_LEAST_BYTES, 4 * num_values // RATIO) if num_values else 0


@dataclass(frozen=True, slots=True)
class Room:
    """What fits into a payload.

    Attributes:
        num_bytes: for directions and parts.
        direction_bytes: of a direction, without its parts.
        bit_bytes: of one bit of all rows.
    """

    num_bytes: int
    direction_bytes: float
    bit_bytes: int

    @classmethod
    def of(cls, rows: int, columns: int) -> Room:
        """For a tensor of this shape."""
        left = encoded_bytes(rows * columns) - _HEAD_BYTES - rows
        return cls(left, 0.5 + 4 + columns, -(-rows // 8))

    @property
    def most_directions(self) -> int:
        """With one bit each; half a byte is kept for an odd number of them."""
        return max(0, int((self.num_bytes - 0.5) / (self.direction_bytes + self.bit_bytes)))


def share_out(variances: Sequence[float], room: Room) -> list[int]:
    """Bits of each direction: one after the other, always where a byte takes most of the error away.

    Args:
        variances: of the rows' parts.

    Returns:
        0 to 8 of each, together within the room.
    """
    bits = [0] * len(variances)
    left = room.num_bytes - 0.5
    gains: list[tuple[float, int]] = []

    def offer(index: int) -> None:
        have = bits[index]
        if have < MOST_BITS:
            gain = variances[index] * (_LEFT[have] - _LEFT[have + 1])
            heapq.heappush(gains, (-gain / _cost(have), index))

    def _cost(have: int) -> float:
        return room.bit_bytes + (0 if have else room.direction_bytes)

    for index in range(len(variances)):
        offer(index)
    while gains:
        gain, index = heapq.heappop(gains)
        cost = _cost(bits[index])
        if gain < 0 and cost <= left:
            bits[index] += 1
            left -= cost
            offer(index)
    return bits


def quantize(values: torch.Tensor) -> torch.Tensor:
    """Put a tensor into bytes.

    Args:
        values: float32, (rows, columns), CPU, finite.

    Returns:
        uint8, (`encoded_bytes`,).
    """
    payload = np.zeros(encoded_bytes(values.numel()), dtype=np.uint8)
    room = Room.of(*values.shape)
    largest = values.abs().amax(1, keepdim=True)
    rms = largest * (values / largest.clamp_min(_SMALLEST)).square().mean(1, keepdim=True).sqrt()
    top = float(rms.max())
    rank = min(*values.shape, room.most_directions)
    if rank < 1 or top < _SMALLEST:
        return torch.from_numpy(payload)
    octaves = (_OCTAVE * torch.log2(top / rms)).floor().clamp(0, _ZERO_ROW)  # so small a row counts as one of zeros
    even = torch.where(octaves == _ZERO_ROW, 0.0, values / (top * torch.exp2(-octaves / _OCTAVE)))

    directions, variances = _main_directions(even, rank)
    bits = share_out(variances.tolist(), room)
    kept = [index for index, each in enumerate(bits) if each]
    if not kept:
        return torch.from_numpy(payload)
    counts = np.array([bits[index] for index in kept], dtype=np.uint8)
    directions = directions[:, kept]
    direction_steps = (directions.abs().amax(0) / 127).clamp_min(_SMALLEST).bfloat16()
    whole = (directions / direction_steps.float()).round().clamp(-127, 127).to(torch.int8)
    parts = even @ (whole.float() * direction_steps.float())
    codes, steps = _rounded(parts, counts)

    writer = _Cursor(payload)
    writer.put(np.array([top], dtype=np.float32))
    writer.put(np.array([len(kept)], dtype=np.uint16))
    writer.put(_pairs(counts))
    writer.put(torch.cat([steps, direction_steps]).view(torch.int16).numpy())
    writer.put(octaves.to(torch.uint8).numpy())
    writer.put(whole.T.contiguous().numpy())
    writer.put(_planes(codes, counts))
    return torch.from_numpy(payload)


def dequantize(payload: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Take a tensor out of bytes.

    Args:
        payload: uint8, (`encoded_bytes`,); any bytes, as they may come from anybody.

    Returns:
        float32, (rows, columns).

    Raises:
        ProtocolError: more than can be in it.
        NonFinite: a scale that is not finite.
    """
    reader = _Cursor(payload.numpy())
    top = float(reader.take(4).view(np.float32)[0])
    if not np.isfinite(top):
        raise NonFinite("a boundary tensor's scale is not finite", "drop that peer")
    count = int(reader.take(2).view(np.uint16)[0])
    if not count:
        return torch.zeros(rows, columns)
    if count > min(rows, columns, Room.of(rows, columns).most_directions):
        raise _malformed()
    bits = _unpaired(reader.take(-(-count // 2)), count)
    if not ((bits >= 1) & (bits <= MOST_BITS)).all():
        raise _malformed()
    steps = torch.from_numpy(reader.take(4 * count).view(np.int16).copy()).view(torch.bfloat16).float()
    if not bool(torch.isfinite(steps).all()):
        raise NonFinite("a boundary tensor's steps are not finite", "drop that peer")
    octaves = torch.from_numpy(reader.take(rows).copy()).float()[:, None]
    whole = torch.from_numpy(reader.take(count * columns).view(np.int8).copy()).view(count, columns)
    codes = _from_planes(reader.take(int(bits.sum()) * -(-rows // 8)), bits, rows)
    middle = torch.from_numpy((2.0 ** (bits.astype(np.float32) - 1) - 0.5).astype(np.float32))[:, None]
    parts = (torch.from_numpy(codes).float() - middle) * steps[:count, None]
    scale = torch.where(octaves == _ZERO_ROW, 0.0, top * torch.exp2(-octaves / _OCTAVE))
    return (parts.T @ (whole.float() * steps[count:, None])) * scale


def _main_directions(even: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[columns, rank] and variances, largest first."""
    rows, columns = even.shape
    width = min(rank + _SPARE_DIRECTIONS, rows, columns)
    basis, _ = torch.linalg.qr(even @ _start(columns, width))
    basis, _ = torch.linalg.qr(even.T @ basis)
    basis, _ = torch.linalg.qr(even @ basis)
    basis, _ = torch.linalg.qr(even.T @ basis)
    parts = even @ basis
    variances, turn = torch.linalg.eigh(parts.T @ parts / rows)
    return (basis @ turn).flip(1)[:, :rank], variances.flip(0)[:rank].clamp_min(0.0)


@functools.lru_cache(maxsize=8)
def _start(columns: int, width: int) -> torch.Tensor:
    return torch.randn(columns, width, generator=torch.Generator().manual_seed(0))


def _rounded(parts: torch.Tensor, counts: Bytes) -> tuple[Bytes, torch.Tensor]:
    """Whole numbers [directions, rows], and the steps in bf16 that fit them best."""
    half = torch.from_numpy(2.0 ** (counts.astype(np.float32) - 1))
    usual = parts.square().mean(0).sqrt().clamp_min(_SMALLEST) * torch.tensor(_STEPS)[counts.astype(np.int64)]
    codes = (torch.floor(parts / usual) + half).clamp_min(0.0).minimum(2 * half - 1)
    levels = codes - half + 0.5
    # Of least squares, so that rounding never makes an error larger than what is rounded.
    steps = (levels * parts).sum(0) / levels.square().sum(0)
    return codes.T.to(torch.uint8).contiguous().numpy(), steps.bfloat16()


def _planes(codes: Bytes, counts: Bytes) -> Bytes:
    """One bit of all rows after the other, of each direction its own number."""
    planes = np.unpackbits(codes[:, :, None], axis=2, bitorder="little").transpose(0, 2, 1)
    return np.packbits(planes[_wanted(counts)], axis=1, bitorder="little")


def _from_planes(packed: Bytes, counts: Bytes, rows: int) -> Bytes:
    planes = np.zeros((len(counts), MOST_BITS, rows), dtype=np.uint8)
    planes[_wanted(counts)] = np.unpackbits(
        packed.reshape(int(counts.sum()), -1), axis=1, count=rows, bitorder="little"
    )
    return np.packbits(planes, axis=1, bitorder="little")[:, 0]


def _wanted(counts: Bytes) -> npt.NDArray[np.bool_]:
    wanted: npt.NDArray[np.bool_] = np.arange(MOST_BITS)[None, :] < counts[:, None]
    return wanted


def _pairs(counts: Bytes) -> Bytes:
    padded = np.append(counts, 0)[: len(counts) + len(counts) % 2].reshape(-1, 2)
    pairs: Bytes = (padded[:, 0] | (padded[:, 1] << 4)).astype(np.uint8)
    return pairs


def _unpaired(pairs: Bytes, count: int) -> Bytes:
    return np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[:count]


class _Cursor:
    """One field after the other."""

    def __init__(self, payload: Bytes) -> None:
        self._payload = payload
        self._at = 0

    def put(self, field: npt.NDArray[np.generic]) -> None:
        raw = np.ascontiguousarray(field).view(np.uint8).reshape(-1)
        self._payload[self._at : self._at + len(raw)] = raw
        self._at += len(raw)

    def take(self, num_bytes: int) -> Bytes:
        if self._at + num_bytes > len(self._payload):
            raise _malformed()
        self._at += num_bytes
        return self._payload[self._at - num_bytes : self._at]


def _malformed() -> ProtocolError:
    return ProtocolError("a boundary tensor claims more than its bytes hold", "drop that peer")
