"""Which tokens the n-th microbatch of a shard holds: a pure function of (seed, n), so that a cursor is the whole state.

A pass visits every window of the shard once, in a pseudo-random order that needs no list: a keyed Feistel network is
a permutation of a power of two, and walking its cycles until the value falls below the number of windows makes it one
of exactly so many (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, section 5).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from swarm.config import RunConfig
from swarm.errors import ShardTooSmall

Int64Array = npt.NDArray[np.int64]
_UInt64Array = npt.NDArray[np.uint64]

_ROUNDS = 6


def windows_per_pass(num_tokens: int, context_tokens: int) -> int:
    """How many windows every pass visits.

    One window less than would fit where that leaves any, so that passes may start at different phases.

    Raises:
        ShardTooSmall: not one window fits.
    """
    fitting = (num_tokens - 1) // context_tokens
    if fitting < 1:
        raise ShardTooSmall(
            f"a window takes {context_tokens + 1} tokens, but the shard has {num_tokens}", "add text to the shard"
        )
    return max(1, fitting - 1)


def windows(num_tokens: int, context_tokens: int, seed: int, cursor: int, count: int) -> Int64Array:
    """Start offsets of consecutive windows in the sampling order.

    Args:
        num_tokens: tokens to train on.
        context_tokens: tokens a window, without the last label.
        seed: of the order, 0 or more.
        cursor: windows before these, over all passes.
        count: how many.

    Returns:
        Offsets into the tokens, [count], int64; each is followed by `context_tokens` + 1 tokens, itself included.

    Raises:
        ShardTooSmall: not one window fits.
    """
    per_pass = windows_per_pass(num_tokens, context_tokens)
    numbers = np.arange(cursor, cursor + count, dtype=np.int64)
    passes, places = np.divmod(numbers, per_pass)
    # One more window than the pass uses fits, or what is left over is all the room there is.
    num_phases = min(context_tokens, num_tokens - per_pass * context_tokens)
    starts = np.empty(count, dtype=np.int64)
    for number in np.unique(passes):
        here = passes == number
        phase, *keys = _pass_keys(seed, int(number))
        starts[here] = int(phase) % num_phases + _permute(places[here], per_pass, keys) * context_tokens
    return starts


def take(
    tokens: npt.NDArray[np.unsignedinteger], starts: Int64Array, context_tokens: int
) -> tuple[Int64Array, Int64Array]:
    """Cut windows out.

    Args:
        tokens: [tokens], any unsigned type.
        starts: [B] offsets.
        context_tokens: T.

    Returns:
        Token ids [B, T] and labels [B, T], both int64; labels are the ids one place further on.
    """
    cut = np.asarray(tokens[starts[:, None] + np.arange(context_tokens + 1)], dtype=np.int64)
    return np.ascontiguousarray(cut[:, :-1]), np.ascontiguousarray(cut[:, 1:])


def microbatch(
    tokens: npt.NDArray[np.unsignedinteger], config: RunConfig, seed: int, cursor: int
) -> tuple[Int64Array, Int64Array]:
    """The microbatch at a cursor.

    Args:
        tokens: the shard's training part, [tokens].
        config: its window length T and windows a microbatch B.
        seed: of the order; differs between owners.
        cursor: microbatches before this one, over all passes.

    Returns:
        Token ids [B, T] and labels [B, T], both int64.

    Raises:
        ShardTooSmall: not one window fits.
    """
    context, sequences = config.data.context_tokens, config.batch.microbatch_sequences
    return take(tokens, windows(len(tokens), context, seed, cursor * sequences, sequences), context)


def _pass_keys(seed: int, number: int) -> list[np.uint64]:
    """Independent 64-bit numbers for one pass: the phase, then a key for every round."""
    digest = hashlib.shake_128(f"{seed}/{number}".encode()).digest(8 * (_ROUNDS + 1))
    return list(np.frombuffer(digest, dtype="<u8"))


def _permute(places: Int64Array, size: int, keys: list[np.uint64]) -> Int64Array:
    """Map [count] places below `size` one to one onto places below `size`."""
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    values = _feistel(places.astype(np.uint64), half_bits, keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], half_bits, keys)
    return values.astype(np.int64)


def _feistel(values: _UInt64Array, half_bits: int, keys: list[np.uint64]) -> _UInt64Array:
    """Permute numbers of twice `half_bits` bits."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_scramble(right ^ key) & mask)
    return (left << shift) | right


def _scramble(values: _UInt64Array) -> _UInt64Array:
    """Mix every input bit into every output bit (the finaliser of SplitMix64, Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
