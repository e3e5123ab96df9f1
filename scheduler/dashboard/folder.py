"""Reads a run's folder, as it grows: the status file, the events, the ledger. It writes nothing and locks nothing."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from scheduler.dashboard.books import EventBook, LedgerBook
from scheduler.dashboard.view import View, view
from scheduler.run_dir import RunDir
from swarm.run_files import Tail, opened_ledger, steps_of

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
        self._tail = Tail(run_dir.events)
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
        with opened_ledger(path) as connection:
            connection.execute("BEGIN")  # one state of the file for all of it
            steps = steps_of(connection, first, _STEPS_A_READ)
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
