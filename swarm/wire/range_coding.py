"""Whole numbers to bytes and back, in as few bits as their spread allows.

A number is a value in steps, dithered and rounded: c + u, where c is as a Laplace variable of some spread and u, known
to both ends, is uniform over a step. Spreads come in quarter octaves, each with its table of probabilities. A number is
coded times the sign of its u, since that is the side it is likelier to lie on.

Tables are whole numbers out of 2^20, so that machines whose exponential functions differ in the last bit hold the same.
"""

from __future__ import annotations

import functools
import math

import constriction
import numpy as np
import numpy.typing as npt

from swarm.errors import ProtocolError

Floats = npt.NDArray[np.float64]
Spreads = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float32]

MOST_SPREAD = 64
_QUARTERS = 4
_ONE_STEP = 16
REACH = 32
"""Deviations that a table covers; what lies further out is brought to its edge."""
_WHOLE = 2.0**20
WIDEST_STEPS = 2.0 ** ((MOST_SPREAD - _ONE_STEP) / _QUARTERS)


def spread_of(scales: npt.ArrayLike) -> Spreads:
    """The nearest spreads of Laplace variables.

    Args:
        scales: standard deviations, in steps, >= 0.
    """
    with np.errstate(divide="ignore"):
        quarters = _ONE_STEP + np.rint(_QUARTERS * np.log2(np.asarray(scales, dtype=np.float64)))
    spreads: Spreads = np.clip(quarters, 0, MOST_SPREAD).astype(np.int64)
    return spreads


def shifted(spreads: Spreads, octaves: float) -> Spreads:
    """So many octaves wider, but no narrower than a step."""
    return np.clip(spreads + round(_QUARTERS * octaves), _ONE_STEP, MOST_SPREAD)


def scale_of(spread: Spreads) -> Floats:
    """The standard deviations that spreads stand for, in steps."""
    scales: Floats = 2.0 ** ((spread - _ONE_STEP) / _QUARTERS)
    return scales


@functools.cache
def reach_of(spread: int) -> int:
    """The largest number that a table has."""
    return math.ceil(REACH * float(scale_of(np.array(spread)))) + 2


class Writer:
    """Numbers, one group after the other."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def put(self, numbers: Numbers, spread: int) -> None:
        """Append a group of one spread; numbers beyond its table are brought to the edge."""
        reach = reach_of(spread)
        self._encoder.encode((np.clip(numbers, -reach, reach) + reach).astype(np.int32).reshape(-1), _model(spread))

    def packed(self) -> npt.NDArray[np.uint8]:
        """All that was put, as bytes; zeros may follow them."""
        packed: npt.NDArray[np.uint8] = self._encoder.get_compressed().view(np.uint8)
        return packed


class Reader:
    """The same groups, from bytes that may come from anybody."""

    def __init__(self, packed: npt.NDArray[np.uint8]) -> None:
        whole = len(packed) // 4 * 4
        self._decoder = constriction.stream.queue.RangeDecoder(packed[:whole].copy().view(np.uint32))

    def take(self, count: int, spread: int) -> Numbers:
        """The next group; raises ProtocolError for bytes that no writer made."""
        try:
            numbers: npt.NDArray[np.int32] = self._decoder.decode(_model(spread), count)
        except (AssertionError, ValueError) as error:
            raise ProtocolError("a boundary tensor's numbers cannot be decoded", "drop that peer") from error
        return (numbers - reach_of(spread)).astype(np.float32)


def mean_bits(spreads: Spreads) -> float:
    """Bits that numbers take together, one of each of these spreads."""
    return float(_bits()[spreads].sum())


@functools.cache
def _bits() -> Floats:
    bits = []
    for spread in range(MOST_SPREAD + 1):
        weights = _table(spread)
        shares = weights[weights > 0] / weights.sum()
        bits.append(float(-(shares * np.log2(shares)).sum()))
    return np.array(bits)


def _table(spread: int) -> Floats:
    """Of -reach .. reach, for u from 0 to half a step."""
    breadth = float(scale_of(np.array(spread))) / math.sqrt(2)

    def integral(at: Floats) -> Floats:
        """Of the distribution function, up to `at`."""
        total: Floats = np.maximum(at, 0.0) + breadth / 2 * np.exp(-np.abs(at) / breadth)
        return total

    k = np.arange(-reach_of(spread), reach_of(spread) + 1, dtype=np.float64)
    shares = 2 * (integral(k + 0.5) - integral(k) - integral(k - 0.5) + integral(k - 1.0))
    table: Floats = np.rint(_WHOLE * np.maximum(shares, 0.0))
    return table


@functools.cache
def _model(spread: int) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(_table(spread), perfect=False)
