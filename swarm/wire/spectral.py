"""Few bits a value: a boundary tensor's main directions, and what each token has of them, rounded with dither.

Rows are tokens, columns the model's width. Activations and their gradients lie near a space of few dimensions: of width
128, 32 directions hold 77 to 99 % of the energy. The main directions of all rows are found, and every row's parts of
them are rounded to steps of one size, the smallest that fits into the bytes there are; a range coder then spends bits
where parts are spread widely. Directions narrower than that are not worth their bytes. What is left of the rows is

- dropped from activations, where the least error is best;
- rounded like the rest in gradients, along directions that complete the basis. What is dropped always lies in the same
  weak directions, and Adam, which brings every weight's gradient to one size, would never learn what they have to say.
  Errors of dithered values are larger, but zero on average: microbatches and steps average them away.

The dither is drawn on both ends from a sum over the tensor. A payload takes the same number of bytes whatever is in it;
the rest is zeros.

    4 bytes     fp32: the largest magnitude
    4 bytes     fp32: the step, in largest magnitudes
    4 bytes     where the dither starts
    2 bytes     r, the number of directions
    1 byte      spread of the remainder, plus 1; 0 where it is dropped
    r bytes     spreads of the directions' parts
    the rest    of one range coder: the directions one by one, then the parts by direction, then the remainder

Nothing is kept from one tensor to the next: peers come and go, and whatever both ends would have to remember about each
other would be one more thing to lose.

Source: reverse water-filling (Shannon, 1959); entropy-coded dithered quantisation (Zamir and Feder, 1992).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from swarm.errors import NonFinite, ProtocolError
from swarm.wire.directions import main_directions
from swarm.wire.range_coding import (
    MOST_SPREAD,
    REACH,
    WIDEST_STEPS,
    Floats,
    Numbers,
    Reader,
    Spreads,
    Writer,
    mean_bits,
    reach_of,
    scale_of,
    shifted,
    spread_of,
)

Bytes = npt.NDArray[np.uint8]

RATIO = 20
"""Bytes of fp32 over bytes sent."""
_LEAST_BYTES = 64
_HEAD = np.dtype([("top", "<f4"), ("step", "<f4"), ("seed", "<u4"), ("count", "<u2"), ("rest", "u1")])
LEAST_STEPS = 0.6
"""Directions with a smaller deviation do not pay for themselves."""
_LEAST_BITS, _DIRECTION_BITS = {False: 2, True: 4}, 4
"""A part of a whole tensor or another, and a direction's number: so many directions at most are looked for."""
_DIRECTION_OCTAVES = -0.75
"""How much coarser directions are rounded than would err like the parts: finer ones cost more than they save."""
_TRIALS = 8
_FULL, _AIM = 0.965, 0.985
"""Of the bytes there are: to be content with, and to aim at. More trials would buy less than they cost."""
_CLEAR = 0.8
"""Of a table's reach, for what rounding the directions adds."""
_HALVINGS = 18
_SMALLEST = 2.0**-126


@dataclass(frozen=True, slots=True)
class Plan:
    """How a tensor is rounded.

    Attributes:
        step: of all parts, in the unit of the scales.
        kept: which directions are sent.
        spreads: of their parts.
        rest: spread of the remainder, plus 1; 0 where it is dropped.
        bits: that all of this takes, about.
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

    @property
    def finest(self) -> float:
        """The smallest step: with a smaller one, parts would be larger than any number."""
        widest = max(float(self.scales.max(initial=0.0)), math.sqrt(self.left / self.columns), _SMALLEST)
        return float(widest / WIDEST_STEPS)

    def step_for(self, bits: float) -> float:
        """The smallest step that takes about so many bits, or the coarsest there is."""
        low, high = 0.0, math.log2(4 * WIDEST_STEPS)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.at(self.finest * math.exp2(middle)).bits > bits:
                low = middle
            else:
                high = middle
        return self.finest * math.exp2(high)

    def at(self, step: float) -> Plan:
        """What this step leads to."""
        kept = np.flatnonzero(self.scales > LEAST_STEPS * step)
        spreads = spread_of(self.scales[kept] / step)
        bits = self.rows * mean_bits(spreads) + self.columns * mean_bits(
            direction_spreads(spreads, self.rows / self.columns)
        )
        others = self.columns - len(kept)
        if not (self.whole and others):
            return Plan(step, kept, spreads, 0, bits + 8 * len(kept))
        left = self.left + np.square(self.scales).sum() - np.square(self.scales[kept]).sum()
        # As of a normal variable, whose mean magnitude is a Laplace variable's of 1.13 times its deviation.
        rest = spread_of([math.sqrt(4 / math.pi * max(0.0, left) / others) / step])
        return Plan(step, kept, spreads, int(rest[0]) + 1, bits + 8 * len(kept) + self.rows * others * mean_bits(rest))


def direction_spreads(spreads: Spreads, rows_per_column: float) -> Spreads:
    """Of the directions' own numbers: an error there is one in all rows."""
    return shifted(spreads, _DIRECTION_OCTAVES + math.log2(rows_per_column) / 2)


def encoded_bytes(num_values: int) -> int:
    """Bytes that so many values take."""
    return max(_LEAST_BYTES, 4 * num_values // RATIO) if num_values else 0


def quantize(values: torch.Tensor, whole: bool) -> torch.Tensor:
    """Put a tensor into bytes.

    Args:
        values: float32, (rows, columns), contiguous, CPU, finite.
        whole: without bias, so that errors average away; otherwise with the least error.

    Returns:
        uint8, (`encoded_bytes`,).
    """
    num_bytes = encoded_bytes(values.numel())
    payload = np.zeros(num_bytes, dtype=np.uint8)
    rows, columns = values.shape
    top = float(values.abs().max())
    if top < _SMALLEST:
        return torch.from_numpy(payload)
    even = values / top
    rank = int(8 * num_bytes / (_LEAST_BITS[whole] * rows + _DIRECTION_BITS * columns))
    directions, parts = main_directions(even, max(1, min(rows, columns, rank)))
    # Of Laplace variables, by their mean magnitudes, which decide how many bits they take; but no row is to be cut off.
    scales = torch.maximum(math.sqrt(2) * parts.abs().mean(0), parts.abs().amax(0) / (_CLEAR * REACH)).double().numpy()
    left = float(even.square().sum() - parts.square().sum()) / rows
    planner = Planner(scales, max(0.0, left), rows, columns, whole)
    seed = zlib.crc32(values.numpy().data)
    dither = _dither(seed, columns if whole else directions.shape[1], rows)
    room = num_bytes - _HEAD.itemsize
    step, too_fine, enough = planner.step_for(8 * _AIM * room), planner.finest, math.inf
    for _ in range(_TRIALS):
        plan = planner.at(step)
        body = _body(even, directions, plan, dither)
        if len(body) > room:
            too_fine = step
        else:
            enough = step
            head = np.array([(top, step, seed, len(plan.kept), plan.rest)], dtype=_HEAD)
            payload[:] = np.pad(np.concatenate([head.view(np.uint8), body]), (0, room - len(body)))
            if len(body) >= _FULL * room or step <= 1.01 * too_fine:
                break
        # Where bits run out by so many an octave, this step leaves as few unused as is wanted.
        bits_per_octave = max(8.0, planner.at(step / 2).bits - plan.bits)
        octaves = 8 * (len(body) - _AIM * room) / bits_per_octave
        step *= math.exp2(min(max(octaves, -2.0), 2.0))
        if not too_fine < step < enough:
            step = math.sqrt(too_fine * min(enough, 16 * too_fine))
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
    dither = _dither(int(head["seed"]), basis.shape[1], rows)
    groups = [reader.take(rows, int(spread)) for spread in spreads]
    if rest:
        groups.append(reader.take((columns - count) * rows, rest - 1))
    parts = torch.from_numpy(np.concatenate(groups).reshape(-1, rows) * np.sign(dither) - dither)
    even = parts.mul_(step).T @ basis.T
    return even.clamp_(-1, 1).mul_(top)


def _body(even: torch.Tensor, directions: torch.Tensor, plan: Plan, dither: Numbers) -> Bytes:
    """All behind the head."""
    rows, columns = even.shape
    own = direction_spreads(plan.spreads, rows / columns)
    reach = torch.tensor([reach_of(int(spread)) for spread in own])
    numbers = torch.round(directions[:, plan.kept] * torch.from_numpy(math.sqrt(columns) * scale_of(own)).float())
    numbers = numbers.clamp(-reach, reach)
    basis = _basis(numbers, bool(plan.rest))
    dither = dither[: basis.shape[1]]
    parts = np.rint((basis.T @ even.T).numpy() / np.float32(plan.step) + dither) * np.sign(dither)
    writer = Writer()
    for number, spread in zip(numbers.T.contiguous().numpy(), own, strict=True):
        writer.put(number, int(spread))
    for part, spread in zip(parts, plan.spreads, strict=False):
        writer.put(part, int(spread))
    if plan.rest:
        writer.put(parts[len(own) :], plan.rest - 1)
    return np.concatenate([plan.spreads.astype(np.uint8), writer.packed()])


def _basis(numbers: torch.Tensor, whole: bool) -> torch.Tensor:
    """Orthonormal: along the directions one after the other, and then, for a whole one, across all of them."""
    unit = numbers / numbers.norm(dim=0).clamp_min(_SMALLEST)
    basis: torch.Tensor = torch.linalg.qr(unit, mode="complete" if whole else "reduced").Q
    return basis


def _dither(seed: int, width: int, rows: int) -> Numbers:
    """Between half a step below and above, never 0: [width, rows]. Of raw bits, which numpy keeps the same for ever."""
    raw = np.random.PCG64(seed).random_raw(-(-width * rows // 4)).view(np.uint16)[: width * rows]
    dither: Numbers = (raw.reshape(width, rows) + np.float32(0.5)) / np.float32(65536) - np.float32(0.5)
    return dither
