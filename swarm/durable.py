"""Files that are either whole or absent, whatever happens in between: temp file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from swarm.errors import DiskRefused

FREE_SPACE = "free space on its disk"


@contextmanager
def keeping(path: Path) -> Iterator[IO[bytes]]:
    """As `replacing`.

    Raises:
        DiskRefused: it cannot be written.
    """
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise DiskRefused(f"cannot write {path} ({error.strerror})", FREE_SPACE) from None


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that takes its name only when it is complete and on the disk.

    Args:
        path: the final name; its folder exists.

    Yields:
        The temporary file beside it, open for reading and writing; an exception inside removes it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Rename a file or a folder, whose content is on the disk already, so that the rename is too."""
    temporary.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's list of names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_checksum(text: bytes) -> bytes:
    """One line that shows every change to it: the SHA-256 of a text without line breaks, a blank, the text."""
    return hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n"


def without_checksum(line: bytes) -> bytes | None:
    """The text that `with_checksum` wrapped; None where the line is not what was written."""
    text = line.partition(b" ")[2].removesuffix(b"\n")
    return text if with_checksum(text) == line else None
