"""One process a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from swarm.errors import ConfigError, StateDirectoryBusy


@contextlib.contextmanager
def exclusive(folder: Path, remedy: str) -> Iterator[None]:
    """Hold a folder, made if it is missing, against other processes: two with one identity would cut each other off.

    Raises:
        StateDirectoryBusy: another process holds it; with `remedy`.
        ConfigError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"cannot write to {folder} ({error.strerror})", "choose another folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateDirectoryBusy(f"another process uses {folder}", remedy) from None
        yield
