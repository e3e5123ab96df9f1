"""The append-only record of every committed step: who computed which microbatch at which stage."""

from __future__ import annotations

import contextlib
import operator
import sqlite3
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path

from scheduler.audit_sums import TABLES, keep_sums, only_logs, verify
from scheduler.instructions import Record
from swarm.config import what_differs
from swarm.durable import FREE_SPACE
from swarm.errors import CheckpointCorrupt, DiskRefused
from swarm.wire.messages import Lease, MicrobatchDone, RoundKey, Work

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
CREATE TABLE IF NOT EXISTS sums (name TEXT PRIMARY KEY, total TEXT NOT NULL);
"""

_NEWEST = 4096
"""Steps whose rounds members' claims are held against."""

_KEPT_BY_REWIND = {
    **dict.fromkeys(("steps", "work", "hops", "gradients"), "step < :steps"),
    "weights": "num_steps <= :steps",
}
"""Rows about steps that are computed again go; all others stay."""


class AuditLog:
    """The log as its scheduler writes it; rows are never changed or removed, which triggers enforce.

    Raises:
        CheckpointCorrupt: the file is damaged, not such a log, or of another run.
    """

    def __init__(self, path: Path, fingerprint: str, config_json: str) -> None:
        self._path = path
        self._later: list[tuple[str, tuple[object, ...]]] = []
        self._writing = threading.RLock()
        with only_logs(path):
            # SQLite would begin a new database in an empty file.
            if path.exists() and path.stat().st_size == 0:
                raise sqlite3.DatabaseError("it is empty")
            self._connection = self._open()
            self._reader = self._open_reader()
            verify(self._connection)
            known = self._connection.execute("SELECT fingerprint, config FROM run").fetchone()
        if known is None:
            with self._connection as transaction:
                transaction.execute("INSERT INTO run VALUES (?, ?)", (fingerprint, config_json))
        elif known[0] != fingerprint:
            raise CheckpointCorrupt(
                f"{path} belongs to run {known[0][:12]}, this is run {fingerprint[:12]}: "
                + what_differs(known[1], config_json),
                "make a new run with `swarm init` instead of changing run.toml",
            )

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _SCHEMA)
        keep_sums(connection)
        for table in TABLES:
            for verb in ("UPDATE", "DELETE"):
                connection.execute(
                    f"CREATE TRIGGER IF NOT EXISTS no_{verb.lower()}_{table} BEFORE {verb} ON {table} "
                    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
                )
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        """A connection of its own for all that only reads.

        The sums are made by a function of ours, which needs the interpreter in the middle of a write; who reads through
        the same connection meanwhile holds the interpreter and waits for the write: nothing would ever move again.
        """
        connection = sqlite3.connect(self._path, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        return connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it, with what had to wait, or nothing of it and DiskRefused."""
        try:
            with self._writing, self._connection as transaction:
                yield transaction
                late = self._later[:]
                for query, row in late:
                    transaction.execute(query, row)
                transaction.commit()
                del self._later[: len(late)]
        except sqlite3.OperationalError as error:
            raise DiskRefused(f"cannot write {self._path} ({error})", FREE_SPACE) from None

    def _append_soon(self, query: str, row: tuple[object, ...]) -> None:
        """Now, or where the disk refuses with the next step: no step is committed without it."""
        self._later.append((query, row))
        with contextlib.suppress(DiskRefused), self._transaction():
            pass

    def append_step(self, record: Record, term: int, now_s: float) -> None:
        """Make a step durable; returns when it is on the disk. Raises DiskRefused where the disk refuses."""
        with self._transaction() as transaction:
            facts = record.step, term, record.plan, record.round, record.tokens, record.loss_sum, record.grad_norm
            transaction.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*facts, now_s))
            for owner, done in record.work:
                number, lease = done.work.lease.number, done.work.lease.lease
                row = (record.step, number, lease, done.work.attempt, owner, done.cursor, done.tokens, done.loss_sum)
                transaction.execute("INSERT INTO work VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                hops = [(record.step, number, stage, peer) for stage, peer in enumerate(done.route)]
                transaction.executemany("INSERT INTO hops VALUES (?, ?, ?, ?)", hops)
            gradients = [(record.step, stage, digest) for stage, digest in enumerate(record.digests)]
            transaction.executemany("INSERT INTO gradients VALUES (?, ?, ?)", gradients)

    def note_weights(self, num_steps: int, stage: int, peer: str, digest: str) -> None:
        """A member's weights after so many steps; on the disk with what is written next."""
        self._later.append(("INSERT OR IGNORE INTO weights VALUES (?, ?, ?, ?)", (num_steps, stage, peer, digest)))

    def append_plan(self, number: int, first_step: int, predicted_tokens_per_s: float) -> None:
        """A plan that was sent out."""
        row = (number, first_step, predicted_tokens_per_s)
        self._append_soon("INSERT OR IGNORE INTO plans VALUES (?, ?, ?)", row)

    def append_loss(self, peer: str, step: int, problem: str) -> None:
        """A peer was declared lost."""
        self._append_soon("INSERT INTO losses VALUES (?, ?, ?)", (peer, step, problem))

    def admit(self, nonce: bytes, peer: str, uses: int, now_s: float) -> bool:
        """Use an invite once; False where its uses are spent. The same peer may come again. Raises DiskRefused."""
        with self._transaction() as transaction:
            rows = transaction.execute("SELECT peer FROM admissions WHERE nonce = ?", (nonce,)).fetchall()
            known = {row[0] for row in rows}
            if peer in known:
                return True
            if len(known) >= uses:
                return False
            transaction.execute("INSERT INTO admissions VALUES (?, ?, ?)", (nonce, peer, now_s))
        return True

    def begin_term(self, now_s: float, above: int = 0) -> int:
        """A scheduler means to lead; its term, higher than any before, and than `above`. Raises DiskRefused."""
        term = max(self._largest("term", "terms"), above) + 1
        self.note_term(term, now_s)
        return term

    def note_term(self, term: int, now_s: float) -> None:
        """Somebody leads this term; raises DiskRefused."""
        with self._transaction() as transaction:
            transaction.execute("INSERT OR IGNORE INTO terms VALUES (?, ?)", (term, now_s))

    @property
    def last_plan(self) -> int:
        """The number of the newest plan; 0 before the first."""
        return self._largest("number", "plans")

    def _largest(self, column: str, table: str) -> int:
        found: int = self._reader.execute(f"SELECT COALESCE(MAX({column}), 0) FROM {table}").fetchone()[0]  # noqa: S608
        return found

    def rewind(self, num_steps: int) -> None:
        """Go on after so many steps: later ones will be computed again. The old file stays beside the new one."""
        if self.num_steps <= num_steps:
            return
        with self._transaction():
            pass
        old = self._path.with_name(f"{self._path.stem}-before-term-{self._largest('term', 'terms')}.sqlite")
        new = self._path.with_name(f"{self._path.stem}-rewound.sqlite")
        new.unlink(missing_ok=True)
        with sqlite3.connect(old) as backup:
            self._connection.backup(backup)
        with contextlib.closing(sqlite3.connect(new)) as fresh:
            fresh.executescript(_SCHEMA)
            keep_sums(fresh)
            fresh.execute("ATTACH ? AS old", (str(old),))
            for table in TABLES:
                kept = _KEPT_BY_REWIND.get(table, "1")
                fresh.execute(f"INSERT INTO main.{table} SELECT * FROM old.{table} WHERE {kept}", {"steps": num_steps})  # noqa: S608
            fresh.commit()
        self._reader.close()
        self._connection.close()
        for suffix in ("-wal", "-shm"):  # of the file that gives way
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        new.replace(self._path)
        self._connection = self._open()
        self._reader = self._open_reader()

    @property
    def num_steps(self) -> int:
        """Steps committed so far."""
        count: int = self._reader.execute("SELECT COALESCE(MAX(step) + 1, 0) FROM steps").fetchone()[0]
        return count

    @property
    def keys(self) -> dict[int, RoundKey]:
        """By step, the round that was committed, of the newest steps."""
        query = "SELECT step, term, round FROM steps ORDER BY step DESC LIMIT ?"
        return {step: RoundKey(term, number) for step, term, number in self._reader.execute(query, (_NEWEST,))}

    @property
    def grad_norm(self) -> float:
        """Of the newest step; 0 before the first."""
        row = self._reader.execute("SELECT grad_norm FROM steps ORDER BY step DESC LIMIT 1").fetchone()
        return float(row[0]) if row else 0.0

    @property
    def step_s(self) -> float:
        """From one commit to the next, the median of the newest; 0 where there are not two."""
        query = "SELECT committed_at_s FROM steps ORDER BY step DESC LIMIT ?"
        times_s = [float(row[0]) for row in self._reader.execute(query, (_NEWEST,))]
        return statistics.median(map(operator.sub, times_s, times_s[1:])) if len(times_s) > 1 else 0.0

    @property
    def cursors(self) -> dict[str, int]:
        """By owner, the first microbatch of its shard that no committed step has used."""
        query = "SELECT owner, MAX(cursor) + 1 FROM work GROUP BY owner"
        return dict(self._reader.execute(query).fetchall())

    def steps_from(self, step: int, limit: int) -> list[tuple[RoundKey, Record]]:
        """Committed steps as their records, the oldest first."""
        columns = "step, term, plan, round, tokens, loss_sum, grad_norm"
        query = f"SELECT {columns} FROM steps WHERE step >= ? ORDER BY step LIMIT ?"  # noqa: S608
        found = []
        for number, term, plan, turn, tokens, loss_sum, grad_norm in self._reader.execute(query, (step, limit)):
            record = Record(
                step=number,
                plan=plan,
                round=turn,
                tokens=tokens,
                loss_sum=loss_sum,
                grad_norm=grad_norm,
                work=self._work_of(number),
                digests=(),
            )
            found.append((RoundKey(term, turn), record))
        return found

    def _work_of(self, step: int) -> tuple[tuple[str, MicrobatchDone], ...]:
        hops: dict[int, list[str]] = {}
        query = "SELECT number, peer FROM hops WHERE step = ? ORDER BY stage"
        for number, peer in self._reader.execute(query, (step,)):
            hops.setdefault(number, []).append(peer)
        query = (
            "SELECT number, lease, attempt, owner, cursor, tokens, loss_sum FROM work WHERE step = ? ORDER BY number"
        )
        return tuple(
            (
                owner,
                MicrobatchDone(
                    work=Work(step, Lease(number, lease), attempt),
                    route=tuple(hops[number]),
                    tokens=tokens,
                    loss_sum=loss_sum,
                    cursor=cursor,
                ),
            )
            for number, lease, attempt, owner, cursor, tokens, loss_sum in self._reader.execute(query, (step,))
        )

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(DiskRefused), self._transaction():
            pass
        self._reader.close()
        self._connection.close()
