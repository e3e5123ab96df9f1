"""Reads a run's folder, as it grows: the status file, the events, the ledger. It writes nothing and locks nothing."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from scheduler.dashboard.books import EventBook, LedgerBook, StepRow
from scheduler.dashboard.view import View, view
from scheduler.event_log import older
from scheduler.run_dir import RunDir

_NONE = -1
_STEPS_A_READ = 2000
"""Of the ledger at once: long reads would keep SQLite from shortening its write-ahead log."""
_WORK = {
    "hosted": "SELECT hops.peer, COUNT(*), SUM(work.tokens), MAX(step) FROM hops JOIN work USING (step, number) "
    "WHERE step BETWEEN ? AND ? GROUP BY hops.peer",
    "owned": "SELECT owner, COUNT(*), SUM(tokens), MAX(step) FROM work WHERE step BETWEEN ? AND ? GROUP BY owner",
}


class RunFolder:
    """A run as its folder tells it; also of a run whose scheduler does not run.

    Args:
        run_dir: has a run.toml.

    Raises:
        ConfigError: it has none.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.config = run_dir.load_config()
        self._events = EventBook()
        self._tail = _Tail(run_dir.events)
        self._ledger = LedgerBook()
        self._ledger_file = _NONE
        self._status: dict[str, Any] = {}
        self._status_written = _NONE

    def look(self) -> View:
        """As of now. A file that is not there, or half of a line, is looked at again next time."""
        for event in self._tail.read():
            self._events.take(event)
        self._read_status()
        with contextlib.suppress(sqlite3.Error):
            self._read_ledger()
        found = {"run": self.config.name, "fingerprint": self.config.fingerprint} | self._status
        return view(found, self._events, self._ledger, self.config.schedule.steps, time.time())

    @property
    def plan(self) -> dict[str, Any] | None:
        """The plan as the status file had it at the last look."""
        return self._status.get("plan")

    def _read_status(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            written = self.run_dir.status.stat().st_mtime_ns
            if written != self._status_written:
                self._status = json.loads(self.run_dir.status.read_bytes())
                self._status_written = written

    def _read_ledger(self) -> None:
        path = self.run_dir.audit
        if not path.exists():
            return
        file = path.stat().st_ino
        if file != self._ledger_file:  # the first look, or the run went on from an earlier step
            self._ledger, self._ledger_file = LedgerBook(), file
        while self._read_steps(path):
            pass

    def _read_steps(self, path: Path) -> bool:
        """Some more steps; whether there may be others."""
        book = self._ledger
        first = book.num_steps
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")  # one state of the file for all of it
            query = (
                "SELECT step, term, plan, tokens, loss_sum, grad_norm, committed_at_s FROM steps "
                "WHERE step >= ? ORDER BY step LIMIT ?"
            )
            steps = [StepRow(*row) for row in connection.execute(query, (first, _STEPS_A_READ))]
            if not steps:
                return False
            done = {
                kind: connection.execute(query, (first, steps[-1].step)).fetchall() for kind, query in _WORK.items()
            }
        for step in steps:
            book.take_step(step)
        for kind, rows in done.items():
            for peer, microbatches, tokens, last_step in rows:
                book.take_work(peer, kind, microbatches, tokens, last_step)
        return len(steps) == _STEPS_A_READ


class _Tail:
    """Whole lines of a file that grows and is replaced when it is long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _NONE
        self._offset = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Events since the last time, the oldest first."""
        with contextlib.ExitStack() as opened:
            # In this order, so that one that is replaced meanwhile is there as the older one.
            newest, before = _opened(opened, self._path), _opened(opened, older(self._path))
            if before is not None and self._file in (_NONE, _number(before)):
                yield from self._rest(before)
            if newest is not None:
                yield from self._rest(newest)

    def _rest(self, lines: IO[bytes]) -> Iterator[dict[str, Any]]:
        if _number(lines) != self._file:
            self._file, self._offset = _number(lines), 0
        lines.seek(self._offset)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._offset += len(line)
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    yield event


def _opened(stack: contextlib.ExitStack, path: Path) -> IO[bytes] | None:
    try:
        return stack.enter_context(path.open("rb"))
    except OSError:
        return None


def _number(file: IO[bytes]) -> int:
    """That tells files apart, whatever their names."""
    return os.fstat(file.fileno()).st_ino
