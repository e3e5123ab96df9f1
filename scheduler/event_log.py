"""What happened in a run, on the disk: one JSON object a line, for the dashboard and for whoever looks later."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import IO, Any

from swarm.run_files import older

MOST_BYTES = 64 << 20
"""Then the file becomes the older one, and the one that was older goes."""
_PASSING = "progress"
"""Of this moment only; the status file has it."""


class EventLog:
    """Appends events. A disk that refuses costs events, never the run.

    Args:
        path: the file; one writer at a time.
        most_bytes: of a file.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._file: IO[bytes] | None = None

    def append(self, event: dict[str, Any]) -> None:
        """Keep an event, with the time of now since 1970."""
        if event["event"] == _PASSING:
            return
        line = json.dumps({"time_s": round(time.time(), 3)} | event).encode() + b"\n"
        with contextlib.suppress(OSError):
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            self._file.write(line)
            if self._file.tell() >= self._most_bytes:
                self.close()
                self._path.replace(older(self._path))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
