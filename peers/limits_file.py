"""A peer's limits, and what it sent and received today, in files of its folder that are whole or absent."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from peers.limits import Limits
from swarm.config import build, read_toml
from swarm.durable import keeping
from swarm.errors import ConfigError
from swarm.toml_text import to_toml

_LIMITS = "limits.toml"
_TODAY = "today.json"


def load_limits(folder: Path) -> Limits:
    """Those kept in a peer's folder; none where there are none.

    Raises:
        ConfigError: the file was changed into something else.
    """
    path = folder / _LIMITS
    return build(Limits, read_toml(path), _LIMITS) if path.exists() else Limits()


def keep_limits(folder: Path, limits: Limits) -> None:
    """Put them on the disk; a folder that is missing is made.

    Raises:
        DiskRefused: it cannot be written.
        ConfigError: nor can the folder be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {folder} ({error.strerror})", "choose another --state-dir") from None
    with keeping(folder / _LIMITS) as file:
        file.write(to_toml(asdict(limits), {"": "Made by `swarm limits`; 0 and an empty text are no limit."}).encode())


class Today:
    """Bytes since midnight, over restarts.

    Args:
        folder: the peer's.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _TODAY
        self._day, self._before_bytes, self._base_bytes = "", 0, 0

    def count(self, day: str, total_bytes: int) -> int:
        """Bytes since midnight.

        Args:
            day: any text that is another one on another day.
            total_bytes: since this process began.
        """
        if day != self._day:
            # Of a day that began before this process did, the file knows the rest.
            self._before_bytes, self._base_bytes = self._kept(day), total_bytes if self._day else 0
            self._day = day
        return self._before_bytes + total_bytes - self._base_bytes

    def keep(self, num_bytes: int) -> None:
        """Put the count on the disk; raises DiskRefused."""
        with keeping(self._path) as file:
            file.write(json.dumps({"day": self._day, "bytes": num_bytes}).encode())

    def _kept(self, day: str) -> int:
        try:
            found = json.loads(self._path.read_bytes())
            return max(0, int(found["bytes"])) if found["day"] == day else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
