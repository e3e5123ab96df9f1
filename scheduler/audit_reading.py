"""What others read of an audit log, also while its scheduler writes it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scheduler.audit_sums import only_logs, verify


@dataclass(frozen=True, slots=True)
class CommittedWork:
    """One microbatch of a committed step."""

    number: int
    owner: str
    cursor: int
    tokens: int
    loss_sum: float
    attempt: int
    route: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommittedStep:
    """One committed step."""

    step: int
    term: int
    plan: int
    round: int
    tokens: int
    loss_sum: float
    grad_norm: float
    committed_at_s: float
    work: tuple[CommittedWork, ...]


def read_steps(path: Path) -> Iterator[CommittedStep]:
    """Every committed step of a log, in order.

    Args:
        path: the file; it may be in use by its scheduler.

    Raises:
        CheckpointCorrupt: not an audit log.
    """
    with _reading(path) as connection:
        hops: dict[tuple[int, int], list[str]] = {}
        for step, number, peer in connection.execute("SELECT step, number, peer FROM hops ORDER BY stage"):
            hops.setdefault((step, number), []).append(peer)
        work: dict[int, list[CommittedWork]] = {}
        query = "SELECT step, number, owner, cursor, tokens, loss_sum, attempt FROM work ORDER BY step, number"
        for row in connection.execute(query):
            step, number, owner, cursor, tokens, loss_sum, attempt = row
            route = tuple(hops[step, number])
            found = CommittedWork(number, owner, cursor, tokens, loss_sum, attempt, route)
            work.setdefault(step, []).append(found)
        query = "SELECT step, term, plan, round, tokens, loss_sum, grad_norm, committed_at_s FROM steps ORDER BY step"
        for row in connection.execute(query):
            step, term, plan, number, tokens, loss_sum, grad_norm, committed_at_s = row
            done = tuple(work[step])
            yield CommittedStep(step, term, plan, number, tokens, loss_sum, grad_norm, committed_at_s, done)


def read_weight_digests(path: Path) -> dict[tuple[int, int], dict[str, str]]:
    """Digests of the weights, by (number of steps, stage) and peer."""
    digests: dict[tuple[int, int], dict[str, str]] = {}
    with _reading(path) as connection:
        for num_steps, stage, peer, digest in connection.execute("SELECT num_steps, stage, peer, digest FROM weights"):
            digests.setdefault((num_steps, stage), {})[peer] = digest
    return digests


def read_lost_peers(path: Path) -> list[tuple[str, int, str]]:
    """(peer, step, problem) of every peer that was declared lost."""
    with _reading(path) as connection:
        return [tuple(row) for row in connection.execute("SELECT peer, step, problem FROM losses")]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """One consistent view of a log, after a check for damage; it may be in use by its scheduler."""
    with only_logs(path), contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        verify(connection)
        yield connection
