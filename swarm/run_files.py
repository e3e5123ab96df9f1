"""Reading what a scheduler keeps of a run, while it writes: the ledger, the events. Writes and locks nothing."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_NONE = -1


@dataclass(frozen=True, slots=True)
class StepRow:
    """A committed step as the ledger has it; `step` counts from 0."""

    step: int
    term: int
    plan: int
    tokens: int
    loss_sum: float
    grad_norm: float
    committed_at_s: float


@dataclass(frozen=True, slots=True)
class WorkRow:
    """A microbatch of a committed step, as it was counted.

    Attributes:
        route: the hosts that it went through, by stage.
        cursor: its place in the owner's shard.
    """

    number: int
    owner: str
    cursor: int
    tokens: int
    loss_sum: float
    route: tuple[str, ...]


@contextlib.contextmanager
def opened_ledger(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads; raises sqlite3.Error where there is no ledger yet."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        yield connection


def steps_of(connection: sqlite3.Connection, first: int, most: int) -> list[StepRow]:
    """Committed steps in order, from `first` (counted from 0), at most so many."""
    query = (
        "SELECT step, term, plan, tokens, loss_sum, grad_norm, committed_at_s FROM steps "
        "WHERE step >= ? ORDER BY step LIMIT ?"
    )
    return [StepRow(*row) for row in connection.execute(query, (first, most))]


def work_of(connection: sqlite3.Connection, step: int) -> list[WorkRow]:
    """What a step consists of, by microbatch number; empty where it is not committed."""
    routes: dict[int, list[str]] = {}
    query = "SELECT number, peer FROM hops WHERE step = ? ORDER BY number, stage"
    for number, peer in connection.execute(query, (step,)):
        routes.setdefault(number, []).append(peer)
    query = "SELECT number, owner, cursor, tokens, loss_sum FROM work WHERE step = ? ORDER BY number"
    rows = connection.execute(query, (step,)).fetchall()
    return [
        WorkRow(number, owner, cursor, tokens, loss_sum, tuple(routes.get(number, ())))
        for number, owner, cursor, tokens, loss_sum in rows
    ]


def older(path: Path) -> Path:
    """The file of events before the one that is written."""
    return path.with_name(f"{path.stem}-before{path.suffix}")


class Tail:
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
