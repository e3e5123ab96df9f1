"""Tokenizers: bytes, files, and telling a wrong one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from swarm.config import DataConfig, RunConfig
from swarm.data.tokenizer import ByteTokenizer, FileTokenizer, identify, load_tokenizer
from swarm.errors import ConfigError, TokenizerMismatch
from tests.support.tiny_models import run_config

TEXT = "Zwölf Boxkämpfer jagen Viktor 漢字 \N{GRINNING FACE}\r\n\ttab \x00\x7f end"


def _word_tokenizer(*words: str) -> str:
    vocabulary = {word: number for number, word in enumerate(("[?]", *words))}
    built = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[?]"))  # noqa: S106
    built.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return str(built.to_str())


def _run_with(identity: str) -> RunConfig:
    return dataclasses.replace(run_config(), data=DataConfig(tokenizer=identity, context_tokens=16))


def test_bytes_are_their_own_tokens() -> None:
    tokenizer = load_tokenizer(run_config(), None)
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.uint16
    assert ids.tolist() == list(TEXT.encode())
    assert tokenizer.decode(ids) == TEXT


def test_half_a_character_decodes_to_a_replacement() -> None:
    assert ByteTokenizer().decode([0x61, 0xC3]) == "a\N{REPLACEMENT CHARACTER}"


def test_the_tokenizer_json_of_bytes_gives_the_same_ids() -> None:
    text = TEXT + "".join(chr(code) for code in range(0x250))
    exported = FileTokenizer(ByteTokenizer().to_json())
    assert exported.vocab_size == 256
    assert exported.encode(text).tolist() == list(text.encode())
    assert exported.decode(exported.encode(text)) == text


def test_a_file_is_known_by_its_hash(tmp_path: Path) -> None:
    text = _word_tokenizer("to", "be")
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    tokenizer = load_tokenizer(_run_with(identify(text)), path)
    assert tokenizer.encode("to be or").tolist() == [1, 2, 0]
    assert tokenizer.to_json() == text


def test_another_file_names_both_hashes(tmp_path: Path) -> None:
    theirs, ours = _word_tokenizer("a"), _word_tokenizer("b")
    path = tmp_path / "tokenizer.json"
    path.write_text(ours)
    with pytest.raises(TokenizerMismatch) as caught:
        load_tokenizer(_run_with(identify(theirs)), path)
    assert identify(theirs) in str(caught.value)
    assert identify(ours) in str(caught.value)


def test_a_missing_or_needless_file_is_a_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(_word_tokenizer("a"))
    with pytest.raises(TokenizerMismatch, match="sha256"):
        load_tokenizer(run_config(), path)
    with pytest.raises(TokenizerMismatch, match="is bytes"):
        load_tokenizer(_run_with("sha256:00"), None)


def test_more_tokens_than_the_model_knows_are_refused() -> None:
    with pytest.raises(TokenizerMismatch, match="256 tokens, but the model's vocab_size is 100"):
        load_tokenizer(run_config(vocab_size=100), None)


def test_a_damaged_file_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tokenizer(run_config(), path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_tokenizer(run_config(), tmp_path / "absent.json")
