"""Few bits a value: a boundary tensor's main directions, and what each token has of them, rounded with dither.

Rows are tokens, columns the model's width. Activations and their gradients lie near a space of few dimensions: of width
128, 32 directions hold 77 to 99 % of the energy. The main directions of all rows are found, and every row's parts of them
are rounded to steps of one size, the largest ones that fit into the bytes there are; a range coder then spends bits where
parts are spread widely. Directions that are narrower than a step are not worth their bytes. What is left of the rows
outside of the main directions is

- dropped from activations: the least error is what counts;
- rounded like the rest in gradients, in the directions that complete the basis. Whatever is dropped always lies in the
  same weak directions, and Adam, which brings every weight's gradient to one size, never learns what they had to say.
  Rounding errors of dithered values are as large, but zero on average: microbatches and steps average them away.

The dither is drawn on both ends from a sum over the tensor. A payload takes the same number of bytes whatever is in it;
the rest is zeros.

    4 bytes     fp32: the largest magnitude
    4 bytes     fp32: the step, in largest magnitudes
    4 bytes     where the dither starts
    2 bytes     r, the number of directions
    1 byte      spread of the remainder, plus 1; 0 where it is dropped
    r bytes     spreads of the directions' parts
    the rest    one range coder's output: the directions, one after the other, then parts by direction, then the remainder

Nothing is kept from one tensor to the next: peers come and go, and whatever both ends would have to remember about each
other would be one more thing to lose.

Source: reverse water-filling (Shannon, 1959); entropy-coded dithered quantisation (Zamir and Feder, 1992); the space of
main directions by randomised subspace iteration (Halko, Martinsson and Tropp, 2011).
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from swarm.errors import NonFinite, ProtocolError
from swarm.wire.range_coding import (
    MOST_SPREAD,
    WIDEST_STEPS,
    Floats,
    Reader,
    Spreads,
    Writer,
    mean_bits,
    scale_of,
    shifted,
    spread_of,
)

Bytes = npt.NDArray[np.uint8]

LEAST_BYTES = 64
_HEAD = np.dtype([("top", "<f4"), ("step", "<f4"), ("seed", "<u4"), ("count", "<u2"), ("rest", "u1")])
_LEAST_STEPS = {False: 0.5, True: 0.7}
"""By whether the remainder is sent: directions of a smaller spread do not pay for themselves."""
_DIRECTION_OCTAVES = -1.0
"""How much coarser directions are rounded than would err like the parts: finer ones cost more than they save."""
_SPARE_DIRECTIONS = 8
_TRIALS = 8
_FULL = 0.985
"""Of the bytes there are: more trials would buy less than they cost."""
_HALVINGS = 18
_INDEPENDENT = 0.01
_SMALLEST = 2.0**-126


@dataclass(frozen=True, slots=True)
class Plan:
    """How a tensor is rounded.

    Attributes:
        step: of all parts, in the unit of the scales.
        kept: which directions are sent.
        spreads: of their parts.
        rest: spread of the remainder, plus 1; 0 where it is dropped.
        bits: that this takes, about.
    """

    step: float
    kept: npt.NDArray[np.int64]
    spreads: Spreads
    rest: int
    bits: float


@dataclass(frozen=True, slots=True)
class Planner:
    """Finds the smallest step that fits.

    Attributes:
        scales: standard deviations of the rows' parts, by direction.
        left: a row's energy outside of these directions.
        rows: of the tensor.
        columns: of the tensor.
        whole: whether the remainder is sent.
    """

    scales: Floats
    left: float
    rows: int
    columns: int
    whole: bool

    def plan(self, bits: float) -> Plan:
        """With about so many bits; with more than that where the coarsest step takes more."""
        widest = math.log2(max(float(self.scales.max(initial=0.0)), math.sqrt(self.left / self.columns), _SMALLEST))
        low, high = widest - math.log2(WIDEST_STEPS), widest + 2
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.at(2.0**middle).bits > bits:
                low = middle
            else:
                high = middle
        return self.at(2.0**high)

    def at(self, step: float) -> Plan:
        """What this step leads to."""
        kept = np.flatnonzero(self.scales > _LEAST_STEPS[self.whole] * step)
        spreads = spread_of(self.scales[kept] / step)
        bits = self.rows * mean_bits(spreads) + self.columns * mean_bits(direction_spreads(spreads, self.rows / self.columns))
        others = self.columns - len(kept)
        if not (self.whole and others):
            return Plan(step, kept, spreads, 0, bits + 8 * len(kept))
        left = self.left + np.square(self.scales).sum() - np.square(self.scales[kept]).sum()
        rest = spread_of([math.sqrt(max(0.0, left) / others) / step])
        return Plan(step, kept, spreads, int(rest[0]) + 1, bits + 8 * len(kept) + self.rows * others * mean_bits(rest))


def direction_spreads(spreads: Spreads, rows_per_column: float) -> Spreads:
    """Of the directions' own numbers: an error there is one in all rows."""
    return shifted(spreads, _DIRECTION_OCTAVES + math.log2(rows_per_column) / 2)


def quantize(values: torch.Tensor, num_bytes: int, whole: bool) -> torch.Tensor:
    """Put a tensor into bytes.

    Args:
        values: float32, (rows, columns), contiguous, CPU, finite.
        num_bytes: of the payload, `LEAST_BYTES` or more.
        whole: without bias, so that errors average away; otherwise with the least error.

    Returns:
        uint8, (num_bytes,).
    """
    payload = np.zeros(num_bytes, dtype=np.uint8)
    rows, columns = values.shape
    top = float(values.abs().max())
    if top < _SMALLEST:
        return torch.from_numpy(payload)
    even = values / top
    rank = int(8 * num_bytes / (1.5 * rows + 4 * columns))
    directions, scales, left = _main_directions(even, max(1, min(rows, columns, rank)))
    planner = Planner(scales, left, rows, columns, whole)
    seed = zlib.crc32(values.numpy())
    bits = 8.0 * (num_bytes - _HEAD.itemsize)
    for _ in range(_TRIALS):
        plan = planner.plan(bits)
        packed = _packed(even, directions, plan, seed)
        body = np.concatenate([plan.spreads.astype(np.uint8), packed])
        room = num_bytes - _HEAD.itemsize
        if len(body) <= room:
            head = np.array((top, plan.step, seed, len(plan.kept), plan.rest), dtype=_HEAD)
            payload[: _HEAD.itemsize] = head.reshape(1).view(np.uint8)
            payload[_HEAD.itemsize :] = np.pad(body, (0, room - len(body)))
            if len(body) >= _FULL * room:
                break
        bits *= 0.998 * room / max(1, len(body))
    return torch.from_numpy(payload)


def dequantize(payload: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Take a tensor out of bytes.

    Args:
        payload: uint8; any bytes, as they may come from anybody.

    Returns:
        float32, (rows, columns).

    Raises:
        ProtocolError: more than can be in it.
        NonFinite: a scale that is not finite.
    """
    raw: Bytes = payload.numpy()
    head = raw[: _HEAD.itemsize].copy().view(_HEAD)[0]
    top, step, count, rest = float(head["top"]), float(head["step"]), int(head["count"]), int(head["rest"])
    if not (math.isfinite(top) and math.isfinite(step)):
        raise NonFinite("a boundary tensor's scales are not finite", "drop that peer")
    if not (count or rest):
        return torch.zeros(rows, columns)
    spreads = raw[_HEAD.itemsize : _HEAD.itemsize + count].astype(np.int64)
    if count > min(rows, columns, len(raw) - _HEAD.itemsize) or max(spreads.max(initial=0), rest - 1) > MOST_SPREAD:
        raise ProtocolError("a boundary tensor claims more than its bytes hold", "drop that peer")
    reader = Reader(raw[_HEAD.itemsize + count :])
    own = direction_spreads(spreads, rows / columns)
    numbers = np.stack([reader.take(columns, int(spread)) for spread in own]) if count else np.zeros((0, columns), "f4")
    basis = _basis(torch.from_numpy(numbers).T, bool(rest))
    dither, signs = _dither(int(head["seed"]), basis.shape[1], rows)
    groups = [reader.take(rows, int(spread)) for spread in spreads]
    if rest:
        groups.append(reader.take((columns - count) * rows, rest - 1))
    parts = torch.from_numpy(np.concatenate(groups).reshape(-1, rows) * signs - dither)
    return (parts.mul_(step).T @ basis.T).mul_(top)


def _packed(even: torch.Tensor, directions: torch.Tensor, plan: Plan, seed: int) -> Bytes:
    rows, columns = even.shape
    own = direction_spreads(plan.spreads, rows / columns)
    numbers = torch.round(directions[:, plan.kept] * torch.from_numpy(math.sqrt(columns) * scale_of(own)).float())
    basis = _basis(numbers, bool(plan.rest))
    dither, signs = _dither(seed, basis.shape[1], rows)
    parts = np.rint((basis.T @ even.T).numpy() / np.float32(plan.step) + dither) * signs
    writer = Writer()
    for number, spread in zip(numbers.T.contiguous().numpy(), own, strict=True):
        writer.put(number, int(spread))
    for part, spread in zip(parts, plan.spreads, strict=False):
        writer.put(part, int(spread))
    if plan.rest:
        writer.put(parts[len(own) :], plan.rest - 1)
    return writer.packed()


def _basis(numbers: torch.Tensor, whole: bool) -> torch.Tensor:
    """Orthonormal: along the directions one after the other, and then, for a whole one, across all of them."""
    unit = numbers / numbers.norm(dim=0).clamp_min(_SMALLEST)
    return torch.linalg.qr(unit, mode="complete" if whole else "reduced").Q


def _dither(seed: int, width: int, rows: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Between half a step below and above, and its signs: [width, rows]. Raw bits, since numpy keeps those for ever."""
    raw = np.random.PCG64(seed).random_raw(-(-width * rows // 4)).view(np.uint16)[: width * rows].reshape(width, rows)
    dither = (raw.astype(np.float32) + 0.5) / 65536 - 0.5
    return dither, np.where(dither < 0, np.float32(-1), np.float32(1))


def _main_directions(even: torch.Tensor, rank: int) -> tuple[torch.Tensor, Floats, float]:
    """[columns, rank], largest first; the scales of the rows' parts; and a row's energy outside of them."""
    rows, columns = even.shape
    width = min(rank + _SPARE_DIRECTIONS, rows, columns)
    basis, _ = torch.linalg.qr(even @ _start(columns, width))
    basis, _ = torch.linalg.qr(even.T @ basis)
    basis, _ = torch.linalg.qr(even @ basis)
    basis, _ = torch.linalg.qr(even.T @ basis)
    parts = even @ basis
    variances, turn = torch.linalg.eigh(parts.T @ parts / rows)
    turn = turn.flip(1)[:, :rank]
    left = float(even.square().sum() / rows - variances.flip(0)[:rank].sum())
    # A Laplace variable's deviation: from its mean magnitude, which decides how many bits it takes.
    scales = math.sqrt(2) * (parts @ turn).abs().mean(0).double().numpy()
    return basis @ turn, scales, max(0.0, left)


@functools.lru_cache(maxsize=8)
def _start(columns: int, width: int) -> torch.Tensor:
    return torch.randn(columns, width, generator=torch.Generator().manual_seed(0))
