"""The scanner finds what is planted, and nothing in noise."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from benchmarks.privacy.scan import WINDOW_TOKENS, Pattern, scan, text_patterns, token_patterns

RANDOM = np.random.default_rng(1)
TOKENS = RANDOM.integers(32, 127, 5_000, dtype=np.uint16)
TEXT = TOKENS.astype(np.uint8).tobytes().decode("ascii")
NOISE = RANDOM.standard_normal(20_000).astype("<f4").tobytes()


def _found(content: bytes, patterns: list[Pattern]) -> set[tuple[str, str, int]]:
    return {(find.pattern, find.encoding, find.offset) for find in scan([("stream", content)], patterns)}


@pytest.mark.parametrize("encoding", ["u1", "<u2", ">u2", "<u4", ">u4", "<u8", ">u8", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("offset", [0, 1, 7, 4_099])
def test_planted_ids_are_found_at_any_offset(encoding: str, offset: int) -> None:
    planted = TOKENS[100 : 100 + WINDOW_TOKENS].astype(encoding).tobytes()
    content = NOISE[:offset] + planted + NOISE[:501]
    assert ("token ids", encoding, offset) in _found(content, token_patterns(TOKENS))


def test_one_token_less_is_no_window() -> None:
    planted = TOKENS[100 : 100 + WINDOW_TOKENS - 1].astype("<u8").tobytes()
    assert not _found(NOISE[:5] + planted + NOISE[:64], token_patterns(TOKENS))


def test_labels_are_found() -> None:
    labels = TOKENS[200 : 200 + 17][1:]
    found = _found(labels.astype("<u4").tobytes(), token_patterns(TOKENS))
    assert {("token ids", "<u4", 4 * place) for place in range(16 - WINDOW_TOKENS + 1)} <= found


def test_large_vocabularies() -> None:
    tokens = RANDOM.integers(0, 150_000, 3_000, dtype=np.uint32)
    content = NOISE[:3] + tokens[40:60].astype(">u4").tobytes()
    found = _found(content, token_patterns(tokens))
    assert {("token ids", ">u4", 3 + 4 * place) for place in range(20 - WINDOW_TOKENS + 1)} <= found


def test_windows_across_chunks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.privacy.scan._CHUNK_BYTES", 64)
    for offset in (37, 50, 63, 64, 65, 120):
        content = NOISE[:offset] + TOKENS[:WINDOW_TOKENS].astype("<u4").tobytes() + NOISE[:200]
        found = [find.offset for find in scan([("", content)], token_patterns(TOKENS)) if find.encoding == "<u4"]
        assert found == [offset]


@pytest.mark.parametrize(
    ("name", "coded"),
    [
        ("text in UTF-8", TEXT[300:330].encode()),
        ("text in UTF-16", TEXT[300:330].encode("utf-16-le")),
        ("text in UTF-16", TEXT[300:330].encode("utf-16-be")),
        ("text in base64", base64.b64encode(TEXT[300:330].encode())),
        ("text in base64", base64.b64encode(TEXT[301:331].encode())),
        ("text in base64", base64.b64encode(TEXT[302:332].encode())),
        ("text in hex", TEXT[300:330].encode().hex().encode()),
        ("text in hex", TEXT[300:330].encode().hex().upper().encode()),
    ],
)
def test_text_is_found(name: str, coded: bytes) -> None:
    assert name in {pattern for pattern, _, _ in _found(NOISE[:77] + coded + NOISE[:99], text_patterns(TEXT))}


def test_noise_holds_nothing() -> None:
    noises = [
        RANDOM.standard_normal(300_000).astype("<f4").tobytes(),
        RANDOM.bytes(1_000_000),
        bytes(100_000),
        np.arange(50_000, dtype="<u4").tobytes(),
    ]
    patterns = token_patterns(TOKENS) + text_patterns(TEXT)
    assert scan([(str(number), noise) for number, noise in enumerate(noises)], patterns) == []


def test_patterns_shorter_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="7 values"):
        token_patterns(TOKENS[: WINDOW_TOKENS - 1])
