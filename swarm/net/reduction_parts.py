"""What travels in an all-reduce: parts of a flat buffer, checked before anybody adds them up."""

from __future__ import annotations

import asyncio
import itertools
import math
import struct
import warnings
from collections.abc import Sequence

import torch
from hivemind.proto import runtime_pb2

from swarm.errors import RoundBroken

# Received bytes are immutable and only ever read; torch warns although nothing writes.
warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)

_COMPRESSION = {"fp32": runtime_pb2.CompressionType.NONE, "fp16": runtime_pb2.CompressionType.FLOAT16}
_EXPONENT = struct.Struct("<i")
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -113, 126  # so that 2**exponent and its inverse are normal in fp32


class MalformedPartError(ValueError):
    """A part that must not be accumulated; the message says why."""


def encode_part(codec: str, values: torch.Tensor) -> runtime_pb2.Tensor:
    """Put a part into its transported form.

    fp16 parts carry a power of two that brings their largest magnitude to 2^14 .. 2^15: gradients of 1e-9 do not
    vanish and sums of 1e6 do not overflow. The error is at most 2^-11 of a value's magnitude, or 2^-40 of the part's
    largest, whichever is greater.

    Args:
        codec: `fp32` or `fp16`.
        values: contiguous float32 on the CPU, shape (n,), n >= 1, finite.

    Returns:
        hivemind's tensor message.

    Raises:
        MalformedPartError: a value is not finite.
    """
    largest = _largest_magnitude(values)
    if codec == "fp32":
        payload = values.numpy().tobytes()
    else:
        exponent = min(15 - math.frexp(largest)[1], _LARGEST_EXPONENT)
        payload = (values * 2.0**exponent).half().numpy().tobytes() + _EXPONENT.pack(exponent)
    return runtime_pb2.Tensor(
        buffer=payload, size=values.shape, dtype="float32", compression=_COMPRESSION[codec], requires_grad=False
    )


def decode_part(codec: str, message: runtime_pb2.Tensor, num_values: int) -> torch.Tensor:
    """Check a part completely, then take its values out.

    Args:
        codec: what this round speaks.
        message: what a peer sent.
        num_values: what the cut of the buffer says must be in it.

    Returns:
        float32, shape (num_values,); finite; may share the message's memory, so never write to it.

    Raises:
        MalformedPartError: codec, dtype, shape, length or a value is not what it must be.
    """
    if message.compression != _COMPRESSION[codec]:
        raise MalformedPartError(f"a part in codec {message.compression} instead of {codec}")
    if message.dtype != "float32" or list(message.size) != [num_values]:
        raise MalformedPartError(f"a part of {message.dtype}{list(message.size)} instead of float32[{num_values}]")
    expected_bytes = 4 * num_values if codec == "fp32" else 2 * num_values + _EXPONENT.size
    if len(message.buffer) != expected_bytes:
        raise MalformedPartError(f"a part of {len(message.buffer)} bytes instead of {expected_bytes}")
    if codec == "fp32":
        values = torch.frombuffer(message.buffer, dtype=torch.float32)
    else:
        exponent = _EXPONENT.unpack_from(message.buffer, 2 * num_values)[0]
        if not _SMALLEST_EXPONENT <= exponent <= _LARGEST_EXPONENT:
            raise MalformedPartError(f"a part scaled by 2^{exponent}")
        halves = torch.frombuffer(message.buffer, dtype=torch.float16, count=num_values)
        values = halves.float().mul_(2.0**-exponent)
    _largest_magnitude(values)
    return values


def _largest_magnitude(values: torch.Tensor) -> float:
    low, high = torch.aminmax(values)  # one pass, no temporary; a NaN anywhere comes out in both
    largest = max(-low.item(), high.item())
    if not math.isfinite(largest) or not math.isfinite(low.item()):
        raise MalformedPartError("a value that is not finite")
    return float(largest)


def cut(num_values: int, fractions: Sequence[float]) -> list[int]:
    """Share a buffer out in proportion.

    Args:
        num_values: length of the buffer.
        fractions: of each member, > 0, in any unit.

    Returns:
        Values a member; they add up to `num_values`, and nobody is more than one value off its share.
    """
    total, bounds, passed = math.fsum(fractions), [0], 0.0
    for fraction in fractions[:-1]:
        passed += fraction
        bounds.append(min(num_values, round(num_values * passed / total)))
    bounds.append(num_values)
    return [end - start for start, end in itertools.pairwise(bounds)]


class OrderedReducer:
    """Averages one part at a time, adding the members in their order, whoever comes first.

    Always the same order, hence always the same bits: a repeated round gives the same average.

    Args:
        weights: of the members, in order; >= 0, sum > 0.
        codec: how averages are transported.
    """

    def __init__(self, weights: Sequence[float], codec: str) -> None:
        self._weights = weights
        self._codec = codec
        self._total = math.fsum(weights)
        self._broken: RoundBroken | None = None
        self._next_part()

    def _next_part(self) -> None:
        self._parts: list[torch.Tensor | None] = [None] * len(self._weights)
        self._average: asyncio.Future[runtime_pb2.Tensor] = asyncio.get_running_loop().create_future()

    @property
    def missing(self) -> list[int]:
        """Members whose share of the current part has not come."""
        return [index for index, part in enumerate(self._parts) if part is None]

    async def average(self, member: int, values: torch.Tensor) -> runtime_pb2.Tensor:
        """Add one member's share of the current part and wait for the rest.

        Args:
            member: index of the member; it has seen the average of the part before.
            values: float32, shape (n,), checked by `decode_part`.

        Returns:
            The average as it is transported, the same object for every member.

        Raises:
            RoundBroken: the round failed meanwhile.
        """
        if self._broken is not None:
            raise self._broken
        average, self._parts[member] = self._average, values
        if not self.missing:
            try:
                average.set_result(encode_part(self._codec, self._sum().div_(self._total)))
            except MalformedPartError:
                raise RoundBroken("finite values with an average too large for float32") from None
            self._next_part()
        # Shielded: a cancelled waiter would otherwise cancel the average of all others with it.
        return await asyncio.shield(average)

    def _sum(self) -> torch.Tensor:
        total = None
        for part, weight in zip(self._parts, self._weights, strict=True):
            if weight > 0 and part is not None:
                total = part * weight if total is None else total.add_(part, alpha=weight)
        assert total is not None, "a plan's weights are not all zero"
        return total

    def break_off(self, broken: RoundBroken) -> None:
        """Let all who wait, and all who come later, fail."""
        self._broken = broken
        self._parts = [None] * len(self._weights)
        if not self._average.done():
            self._average.set_exception(broken)
            self._average.exception()  # seen: nobody may be waiting, and asyncio would complain
