"""Searching captured bytes for runs of tokens, in every way that a number can be written.

A window is so many tokens in a row as they stand in the text. Integers of 1, 2, 4 and 8 bytes and floats of 4 and 8
are read in both byte orders from every byte offset. Labels are the text one place further on, so that a window of
labels is a window of the text. The text itself is a sequence of code units, and so are its base64 and hex forms.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

WINDOW_TOKENS = 8

_Bools = npt.NDArray[np.bool_]
_Int64Array = npt.NDArray[np.int64]

_BYTE = ("u1",)
_UTF16 = ("<u2", ">u2")
_NUMBERS = ("u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8", "<f4", ">f4", "<f8", ">f8")
_CHUNK_BYTES = 8 << 20
_LARGEST_ID = 1 << 32
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Pattern:
    """One sequence of numbers to look for, and how they may be written.

    Args:
        name: of what it is, such as `token ids`.
        values: [n], 0 or more and below 2^32; n is at least `window`.
        encodings: numpy's names of number types.
        window: how many in a row are a find.
    """

    def __init__(
        self, name: str, values: npt.NDArray[np.integer], encodings: Sequence[str], window: int = WINDOW_TOKENS
    ) -> None:
        self.name = name
        self.encodings = tuple(encodings)
        self.window = window
        self.values = values.astype(np.int64)
        if len(values) < window or self.values.min() < 0 or self.values.max() >= _LARGEST_ID:
            raise ValueError(f"{len(values)} values from {self.values.min()} to {self.values.max()}")
        self._alphabet = np.zeros(int(self.values.max()) + 2, dtype=np.bool_)
        self._alphabet[self.values] = True
        hashes = _hashes(np.lib.stride_tricks.sliding_window_view(self.values, window))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def knows(self, words: npt.NDArray[Any]) -> _Bools:
        """Which words are numbers that occur in the sequence, [n]; integers without a sign or floats, [n]."""
        beyond = len(self._alphabet) - 1
        if words.dtype.kind == "f":
            with np.errstate(invalid="ignore"):  # most bytes are not sensible floats
                possible = (words >= 0) & (words < beyond) & (words == np.floor(words))
            places = np.where(possible, words, beyond).astype(np.int64)
        else:
            places = words if np.iinfo(words.dtype).max < beyond else np.minimum(words, words.dtype.type(beyond))
        known: _Bools = self._alphabet[places]  # whose last entry stands for everything beyond it
        return known

    def matches(self, windows: _Int64Array) -> _Bools:
        """Which of [n, window] numbers stand so in the sequence, [n]."""
        hashes = _hashes(windows)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        candidates = np.flatnonzero(self._hashes[places] == hashes)
        found = np.zeros(len(windows), dtype=np.bool_)
        starts = self._order[places[candidates]]
        there = self.values[starts[:, None] + np.arange(self.window)]
        found[candidates] = (there == windows[candidates]).all(axis=1)
        return found


@dataclass(frozen=True, slots=True)
class Find:
    """A window that should not be there."""

    pattern: str
    encoding: str
    stream: str
    offset: int
    """In bytes, of the window's start."""


def token_patterns(tokens: npt.NDArray[np.integer]) -> list[Pattern]:
    """What to look for, of a shard's token ids."""
    return [Pattern("token ids", tokens, _NUMBERS)]


def text_patterns(text: str) -> list[Pattern]:
    """What to look for, of a shard's text: UTF-8, UTF-16, base64 in its three phases, hex in both cases."""
    raw = text.encode("utf-8")
    patterns = [
        Pattern("text in UTF-8", np.frombuffer(raw, dtype=np.uint8), _BYTE),
        Pattern("text in UTF-16", np.frombuffer(text.encode("utf-16-le"), dtype="<u2"), _UTF16),
    ]
    for phase in range(3):
        coded = base64.b64encode(raw[phase:]).rstrip(b"=")
        patterns.append(Pattern("text in base64", np.frombuffer(coded, dtype=np.uint8), _BYTE, 12))
    for coded in (raw.hex().encode(), raw.hex().upper().encode()):
        patterns.append(Pattern("text in hex", np.frombuffer(coded, dtype=np.uint8), _BYTE, 2 * WINDOW_TOKENS))
    return patterns


def scan(streams: Iterable[tuple[str, bytes]], patterns: Sequence[Pattern]) -> list[Find]:
    """Find every window of every pattern.

    Args:
        streams: name and content.
        patterns: what to look for.

    Returns:
        One entry for each window and each way to read it; a long run of tokens gives many.
    """
    return [
        Find(pattern.name, encoding, name, offset)
        for name, content in streams
        for pattern in patterns
        for encoding in pattern.encodings
        for offset in _offsets(content, pattern, np.dtype(encoding))
    ]


def _offsets(content: bytes, pattern: Pattern, dtype: np.dtype[Any]) -> Iterator[int]:
    width = dtype.itemsize
    overlap = pattern.window * width - 1
    for start in range(0, max(1, len(content) - overlap), _CHUNK_BYTES):
        chunk = memoryview(content)[start : start + _CHUNK_BYTES + overlap]
        for phase in range(width):
            count = (len(chunk) - phase) // width
            if count < pattern.window:
                continue
            words = np.frombuffer(chunk, dtype=dtype, count=count, offset=phase)
            for place in _places(words, pattern):
                yield start + phase + int(place) * width


def _places(words: npt.NDArray[Any], pattern: Pattern) -> _Int64Array:
    """Where windows of the pattern begin in [n] words."""
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    starts = np.flatnonzero(_runs(pattern.knows(words), pattern.window))
    windows = words[starts[:, None] + np.arange(pattern.window)].astype(np.int64)
    return starts[pattern.matches(windows)].astype(np.int64)


def _runs(known: _Bools, window: int) -> _Bools:
    """Where `window` true values follow one another, [n - window + 1]; by doubling the run."""
    length = 1
    while length < window:
        step = min(length, window - length)
        known = known[:-step] & known[step:]
        length += step
    return known


def _hashes(windows: _Int64Array) -> npt.NDArray[np.uint64]:
    """A 64-bit number for each of [n, window] windows, [n]."""
    hashes = np.zeros(len(windows), dtype=np.uint64)
    for column in range(windows.shape[1]):
        hashes = (hashes ^ windows[:, column].astype(np.uint64)) * _FACTOR
    return hashes
