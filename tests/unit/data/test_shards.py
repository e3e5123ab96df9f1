"""Shards: every source, the cache, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from swarm.data.shards import Shard
from swarm.data.tokenizer import ByteTokenizer
from swarm.errors import ShardEmpty, ShardTooSmall, ShardUnreadable
from tests.support.tiny_models import run_config

DOCUMENTS = ["It was a dark and stormy night; " * 3, "the rain fell in torrents\n" * 3]
JOINED = "".join(text if text.endswith("\n") else text + "\n" for text in DOCUMENTS)


def _open(path: Path, cache: Path) -> Shard:
    return Shard.open(run_config(), path, cache / "cache", ByteTokenizer())


def _text(shard: Shard) -> str:
    return ByteTokenizer().decode(np.concatenate([shard.train_tokens, shard.held_out_tokens]))


def _folder(root: Path) -> Path:
    folder = root / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(DOCUMENTS[0])
    (folder / "deep" / "b.md").write_text(DOCUMENTS[1])
    return folder


def test_a_folder_is_read_in_order_and_binaries_are_counted(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "a2.bin").write_bytes(b"text\0binary")
    (folder / "a3.txt").write_bytes("latin ä".encode("latin-1"))
    (folder / "a4.txt").write_bytes(b"cut short \xc3")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    shard = _open(folder, tmp_path)
    assert _text(shard) == JOINED
    assert shard.skipped_files == 3


def test_json_lines_and_parquet_hold_documents(tmp_path: Path) -> None:
    lines = tmp_path / "shard.jsonl"
    lines.write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS) + "\n\n")
    table = tmp_path / "shard.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [*DOCUMENTS, None], "n": [1, 2, 3]}), table)
    by_lines, by_table = _open(lines, tmp_path), _open(table, tmp_path)
    assert _text(by_lines) == _text(by_table) == JOINED
    assert by_lines.checksum == by_table.checksum


def test_the_end_is_held_out(tmp_path: Path) -> None:
    shard = _open(_folder(tmp_path), tmp_path)
    assert len(shard.held_out_tokens) == int(0.1 * len(JOINED))
    assert JOINED.endswith(ByteTokenizer().decode(shard.held_out_tokens))
    assert isinstance(shard.train_tokens, np.memmap)


def test_the_cache_is_used_until_the_source_changes(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    first = _open(folder, tmp_path)
    [tokens] = (tmp_path / "cache").glob("*.tokens")
    before = tokens.stat().st_mtime_ns
    assert _open(folder, tmp_path).checksum == first.checksum
    assert tokens.stat().st_mtime_ns == before
    (folder / "a.txt").write_text("another text " * 20)
    assert _open(folder, tmp_path).checksum != first.checksum


@pytest.mark.parametrize("damage", ["flip", "truncate", "describe"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    folder = _folder(tmp_path)
    expected = _open(folder, tmp_path).checksum
    [tokens] = (tmp_path / "cache").glob("*.tokens")
    content = bytearray(tokens.read_bytes())
    if damage == "flip":
        content[10] ^= 1
        tokens.write_bytes(content)
    elif damage == "truncate":
        tokens.write_bytes(content[:-2])
    else:
        tokens.with_suffix(".json").write_text("{")
    shard = _open(folder, tmp_path)
    assert shard.checksum == expected
    assert _text(shard) == JOINED
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_nothing_to_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardUnreadable, match="no shard at"):
        _open(tmp_path / "absent", tmp_path)
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(ShardEmpty, match="holds no text"):
        _open(empty, tmp_path)
    binaries = tmp_path / "binaries"
    binaries.mkdir()
    (binaries / "x").write_bytes(b"\0")
    with pytest.raises(ShardEmpty, match="1 files in it are not text"):
        _open(binaries, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.txt", b"\xff\xfe", "cannot read"),
        ("x.txt", b"a\0", "is not text"),
        ("x.jsonl", b'{"text": 1}\n', 'line 1 of .* has no field "text"'),
        ("x.jsonl", b'{"text": "a"}\n{', "line 2 of .* is not JSON"),
        ("x.jsonl", b'{"text": "\\ud800"}\n', "not Unicode"),
        ("x.parquet", b"PAR1", "cannot read"),
    ],
)
def test_unreadable_files_are_named_and_leave_nothing(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ShardUnreadable, match=sentence):
        _open(path, tmp_path)
    assert not list((tmp_path / "cache").iterdir())


def test_a_table_without_text_is_named(tmp_path: Path) -> None:
    table = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), table)
    with pytest.raises(ShardUnreadable, match='no column "text"'):
        _open(table, tmp_path)


def test_less_than_a_microbatch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("x" * 33 + "\n")
    with pytest.raises(ShardTooSmall, match="one microbatch takes 33"):
        _open(path, tmp_path)
    path.write_text("x" * 35 + "\n")
    assert len(_open(path, tmp_path).train_tokens) == 33
