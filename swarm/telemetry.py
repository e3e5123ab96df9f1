"""What a process tells while it works: one line of text for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.status import Status


@dataclass(slots=True)
class Teller:
    """Writes events to standard output.

    Args:
        as_json: one JSON object a line, every event.
    """

    as_json: bool
    _live: Status | None = None
    _last_line: str = ""

    def tell(self, event: dict[str, Any], text: str = "") -> None:
        """An event that stays: a JSON line, or a line of text."""
        if self.as_json:
            typer.echo(json.dumps({"time_s": round(time.time(), 3)} | event))
            sys.stdout.flush()
        elif text:
            typer.echo(text)

    def say(self, text: str) -> None:
        """What goes on right now: replaces itself on a terminal, and is a line where it changed elsewhere."""
        if self.as_json:
            self.tell({"event": "status", "text": text})
        elif sys.stdout.isatty():
            if self._live is None:
                self._live = Console().status(text)
                self._live.start()
            self._live.update(text)
        elif text != self._last_line:
            typer.echo(text)
        self._last_line = text

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None
