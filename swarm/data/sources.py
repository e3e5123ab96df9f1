"""Reading an owner's text, a piece at a time: text files, folders of them, JSON lines and Parquet."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from swarm.errors import ShardUnreadable

_BLOCK_BYTES = 1 << 20
_FIELD = "text"


def source_files(path: Path) -> list[Path]:
    """The files of a shard, in an order that does not depend on the file system.

    Args:
        path: a file, or a folder that is searched to its bottom, except for hidden files and folders.

    Raises:
        ShardUnreadable: nothing there, or a folder that cannot be listed.
    """
    try:
        if path.is_dir():
            found = (file for file in path.rglob("*") if not _is_hidden(file.relative_to(path)))
            return sorted(file for file in found if file.is_file())
        if path.is_file():
            return [path]
    except OSError as error:
        raise ShardUnreadable(f"cannot list {path} ({error})", "check its permissions") from None
    raise ShardUnreadable(f"there is no shard at {path}", "give --data a text file, a folder, a .jsonl or a .parquet")


def read_text(path: Path) -> Iterator[str]:
    """Stream the text of one file; every document in it ends with a newline.

    Args:
        path: `.jsonl` and `.parquet` hold documents under "text"; everything else is one document in UTF-8.

    Yields:
        Pieces of about a mebibyte or a document, never empty.

    Raises:
        ShardUnreadable: not readable, not UTF-8, binary, or without a "text"; possibly after some pieces.
    """
    readers = {".jsonl": _json_documents, ".parquet": _parquet_documents}
    reader = readers.get(path.suffix.lower())
    try:
        if reader is None:
            yield from _plain_text(path)
        else:
            for document in reader(path):
                yield document if document.endswith("\n") else document + "\n"
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise ShardUnreadable(f"cannot read {path} ({error})", "convert it to UTF-8 text or take it out") from None


def _is_hidden(path: Path) -> bool:
    # Such as the innards of a version control system.
    return any(part.startswith(".") for part in path.parts)


def _plain_text(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    last = ""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if b"\0" in block:
                raise ShardUnreadable(f"{path} is not text", "take it out of the shard")
            if text := decoder.decode(block):
                last = text[-1]
                yield text
        decoder.decode(b"", final=True)
    if last and last != "\n":
        yield "\n"


def _json_documents(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ShardUnreadable(f"line {number} of {path} is not JSON ({error})", "correct that line") from None
            text = value.get(_FIELD) if isinstance(value, dict) else None
            if not isinstance(text, str):
                raise ShardUnreadable(
                    f'line {number} of {path} has no field "{_FIELD}" of text', f'name the field "{_FIELD}"'
                )
            yield text


def _parquet_documents(path: Path) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as table:
        kind = dict(zip(table.schema_arrow.names, table.schema_arrow.types, strict=True)).get(_FIELD)
        if kind is None or not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
            raise ShardUnreadable(f'{path} has no column "{_FIELD}" of text', f'name the column "{_FIELD}"')
        for batch in table.iter_batches(batch_size=1024, columns=[_FIELD]):
            yield from (text for text in batch.column(0).to_pylist() if text is not None)
