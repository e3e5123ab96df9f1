"""The append-only record of every committed step: who computed which microbatch at which stage."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scheduler.instructions import Record
from swarm.errors import CheckpointCorrupt, CheckpointError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (fingerprint TEXT NOT NULL, config TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS admissions (
    nonce BLOB NOT NULL, peer TEXT NOT NULL, admitted_at_s REAL NOT NULL, PRIMARY KEY (nonce, peer));
CREATE TABLE IF NOT EXISTS plans (
    number INTEGER PRIMARY KEY, first_step INTEGER NOT NULL, predicted_tokens_per_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS steps (
    step INTEGER PRIMARY KEY, term INTEGER NOT NULL, plan INTEGER NOT NULL, round INTEGER NOT NULL,
    tokens INTEGER NOT NULL, loss_sum REAL NOT NULL, grad_norm REAL NOT NULL, committed_at_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS work (
    step INTEGER NOT NULL, number INTEGER NOT NULL, lease INTEGER NOT NULL, attempt INTEGER NOT NULL,
    owner TEXT NOT NULL, cursor INTEGER NOT NULL, tokens INTEGER NOT NULL, loss_sum REAL NOT NULL,
    PRIMARY KEY (step, number));
CREATE TABLE IF NOT EXISTS hops (
    step INTEGER NOT NULL, number INTEGER NOT NULL, stage INTEGER NOT NULL, peer TEXT NOT NULL,
    PRIMARY KEY (step, number, stage));
CREATE TABLE IF NOT EXISTS gradients (
    step INTEGER NOT NULL, stage INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (step, stage));
CREATE TABLE IF NOT EXISTS weights (
    num_steps INTEGER NOT NULL, stage INTEGER NOT NULL, peer TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (num_steps, stage, peer));
CREATE TABLE IF NOT EXISTS terms (term INTEGER PRIMARY KEY, began_at_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS losses (peer TEXT NOT NULL, step INTEGER NOT NULL, problem TEXT NOT NULL);
"""
_TABLES = ("run", "admissions", "plans", "steps", "work", "hops", "gradients", "weights", "losses", "terms")

_KEPT_BY_REWIND = {
    **dict.fromkeys(("steps", "work", "hops", "gradients"), "step < :steps"),
    "weights": "num_steps <= :steps",
}
"""Rows about steps that are computed again go; all others stay."""


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
    plan: int
    round: int
    tokens: int
    loss_sum: float
    grad_norm: float
    committed_at_s: float
    work: tuple[CommittedWork, ...]


class AuditLog:
    """The log as its scheduler writes it; rows are never changed or removed, which triggers enforce.

    Raises:
        CheckpointCorrupt: the file is not such a log, or of another run.
    """

    def __init__(self, path: Path, fingerprint: str, config_json: str) -> None:
        self._path = path
        self._weights: list[tuple[int, int, str, str]] = []
        try:
            self._connection = self._open()
            known = self._connection.execute("SELECT fingerprint FROM run").fetchone()
        except sqlite3.DatabaseError as error:
            raise CheckpointCorrupt(f"{path} is not an audit log ({error})", "restore it from a backup") from None
        if known is None:
            with self._connection as transaction:
                transaction.execute("INSERT INTO run VALUES (?, ?)", (fingerprint, config_json))
        elif known[0] != fingerprint:
            raise CheckpointCorrupt(
                f"{path} belongs to run {known[0][:12]}, this is run {fingerprint[:12]}",
                "make a new run with `swarm init` instead of changing run.toml",
            )

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _SCHEMA)
        for table in _TABLES:
            for verb in ("UPDATE", "DELETE"):
                connection.execute(
                    f"CREATE TRIGGER IF NOT EXISTS no_{verb.lower()}_{table} BEFORE {verb} ON {table} "
                    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
                )
        return connection

    def append_step(self, record: Record, term: int, now_s: float) -> None:
        """Make a step durable; returns when it is on the disk. Raises CheckpointError where the disk refuses."""
        try:
            self._append_step(record, term, now_s)
        except sqlite3.OperationalError as error:
            raise CheckpointError(f"cannot write {self._path} ({error})", "free space on its disk") from None

    def _append_step(self, record: Record, term: int, now_s: float) -> None:
        with self._connection as transaction:
            transaction.execute(
                "INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.step,
                    term,
                    record.plan,
                    record.round,
                    record.tokens,
                    record.loss_sum,
                    record.grad_norm,
                    now_s,
                ),
            )
            for owner, done in record.work:
                number, lease = done.work.lease.number, done.work.lease.lease
                row = (record.step, number, lease, done.work.attempt, owner, done.cursor, done.tokens, done.loss_sum)
                transaction.execute("INSERT INTO work VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                hops = [(record.step, number, stage, peer) for stage, peer in enumerate(done.route)]
                transaction.executemany("INSERT INTO hops VALUES (?, ?, ?, ?)", hops)
            gradients = [(record.step, stage, digest) for stage, digest in enumerate(record.digests)]
            transaction.executemany("INSERT INTO gradients VALUES (?, ?, ?)", gradients)
            self._flush_weights(transaction)

    def note_weights(self, num_steps: int, stage: int, peer: str, digest: str) -> None:
        """A member's weights after so many steps; on the disk with the next step, or when the log is closed."""
        self._weights.append((num_steps, stage, peer, digest))

    def _flush_weights(self, transaction: sqlite3.Connection) -> None:
        weights, self._weights = self._weights, []
        transaction.executemany("INSERT OR IGNORE INTO weights VALUES (?, ?, ?, ?)", weights)

    def append_plan(self, number: int, first_step: int, predicted_tokens_per_s: float) -> None:
        """A plan that was sent out."""
        with self._connection as transaction:
            row = (number, first_step, predicted_tokens_per_s)
            transaction.execute("INSERT OR IGNORE INTO plans VALUES (?, ?, ?)", row)

    def append_loss(self, peer: str, step: int, problem: str) -> None:
        """A peer was declared lost."""
        with self._connection as transaction:
            transaction.execute("INSERT INTO losses VALUES (?, ?, ?)", (peer, step, problem))

    def admit(self, nonce: bytes, peer: str, uses: int, now_s: float) -> bool:
        """Use an invite once; False where its uses are spent. The same peer may come again."""
        with self._connection as transaction:
            rows = transaction.execute("SELECT peer FROM admissions WHERE nonce = ?", (nonce,)).fetchall()
            known = {row[0] for row in rows}
            if peer in known:
                return True
            if len(known) >= uses:
                return False
            transaction.execute("INSERT INTO admissions VALUES (?, ?, ?)", (nonce, peer, now_s))
        return True

    def begin_term(self, now_s: float) -> int:
        """A scheduler begins to lead; its term, higher than any before."""
        term = self._largest("term", "terms") + 1
        with self._connection as transaction:
            transaction.execute("INSERT INTO terms VALUES (?, ?)", (term, now_s))
        return term

    @property
    def last_plan(self) -> int:
        """The number of the newest plan; 0 before the first."""
        return self._largest("number", "plans")

    def _largest(self, column: str, table: str) -> int:
        found: int = self._connection.execute(f"SELECT COALESCE(MAX({column}), 0) FROM {table}").fetchone()[0]  # noqa: S608
        return found

    def rewind(self, num_steps: int) -> None:
        """Go on after so many steps: later ones will be computed again. The old file stays beside the new one."""
        if self.num_steps <= num_steps:
            return
        with self._connection as transaction:
            self._flush_weights(transaction)
        old = self._path.with_name(f"{self._path.stem}-before-term-{self._largest('term', 'terms')}.sqlite")
        new = self._path.with_name(f"{self._path.stem}-rewound.sqlite")
        new.unlink(missing_ok=True)
        with sqlite3.connect(old) as backup:
            self._connection.backup(backup)
        with contextlib.closing(sqlite3.connect(new)) as fresh:
            fresh.executescript(_SCHEMA)
            fresh.execute("ATTACH ? AS old", (str(old),))
            for table in _TABLES:
                kept = _KEPT_BY_REWIND.get(table, "1")
                fresh.execute(f"INSERT INTO main.{table} SELECT * FROM old.{table} WHERE {kept}", {"steps": num_steps})  # noqa: S608
            fresh.commit()
        self._connection.close()
        for suffix in ("-wal", "-shm"):  # of the file that gives way
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        new.replace(self._path)
        self._connection = self._open()

    @property
    def num_steps(self) -> int:
        """Steps committed so far."""
        count: int = self._connection.execute("SELECT COUNT(*) FROM steps").fetchone()[0]
        return count

    def close(self) -> None:
        """Close the file."""
        with self._connection as transaction:
            self._flush_weights(transaction)
        self._connection.close()


def read_steps(path: Path) -> Iterator[CommittedStep]:
    """Every committed step of a log, in order.

    Args:
        path: the file; it may be in use by its scheduler.

    Raises:
        CheckpointCorrupt: not an audit log.
    """
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
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
            query = "SELECT step, plan, round, tokens, loss_sum, grad_norm, committed_at_s FROM steps ORDER BY step"
            for row in connection.execute(query):
                step, plan, number, tokens, loss_sum, grad_norm, committed_at_s = row
                yield CommittedStep(step, plan, number, tokens, loss_sum, grad_norm, committed_at_s, tuple(work[step]))
    except sqlite3.DatabaseError as error:
        raise CheckpointCorrupt(f"{path} is not an audit log ({error})", "check the path") from None


def read_weight_digests(path: Path) -> dict[tuple[int, int], dict[str, str]]:
    """Digests of the weights, by (number of steps, stage) and peer."""
    digests: dict[tuple[int, int], dict[str, str]] = {}
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        for num_steps, stage, peer, digest in connection.execute("SELECT num_steps, stage, peer, digest FROM weights"):
            digests.setdefault((num_steps, stage), {})[peer] = digest
    return digests


def read_lost_peers(path: Path) -> list[tuple[str, int, str]]:
    """(peer, step, problem) of every peer that was declared lost."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        return [tuple(row) for row in connection.execute("SELECT peer, step, problem FROM losses")]
