"""How damage to an audit log shows: SQLite itself notices few damaged bytes.

The table `sums` holds a sum over the digests of every other table's rows, kept by triggers.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from swarm.errors import CheckpointCorrupt

TABLES = ("run", "admissions", "plans", "steps", "work", "hops", "gradients", "weights", "losses", "terms")
"""All that have sums."""

_NO_ROWS = f"{0:064x}"


@contextlib.contextmanager
def only_logs(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a file into a CheckpointCorrupt."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise CheckpointCorrupt(
            f"{path} is damaged or is not an audit log ({error})", "check the path, or restore it from a backup"
        ) from None


def keep_sums(connection: sqlite3.Connection) -> None:
    """Let every insertion count in its table's sum."""
    connection.create_function("add_row", -1, _add_row, deterministic=True)
    for table in TABLES:
        columns = ", ".join(f"NEW.{row[1]}" for row in connection.execute(f"PRAGMA table_info({table})"))
        connection.execute("INSERT OR IGNORE INTO sums VALUES (?, ?)", (table, _NO_ROWS))
        connection.execute(
            f"CREATE TRIGGER IF NOT EXISTS sum_{table} AFTER INSERT ON {table} "  # noqa: S608
            f"BEGIN UPDATE sums SET total = add_row(total, {columns}) WHERE name = '{table}'; END"
        )
    connection.commit()


def _add_row(total: str, *row: object) -> str:
    """A table's sum with one more row; the order of rows does not matter."""
    digest = hashlib.sha256(repr(row).encode(errors="surrogateescape")).digest()
    return f"{(int(total, 16) + int.from_bytes(digest, 'big')) % (1 << 256):064x}"


def verify(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError where a row, or an index to it, is not what was written."""
    problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problem != "ok":
        raise sqlite3.DatabaseError(str(problem).replace("\n", " "))
    sums = dict(connection.execute("SELECT name, total FROM sums"))
    for table in TABLES:
        total = _NO_ROWS
        for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608 - names of our own tables
            total = _add_row(total, *row)
        if sums.get(table) != total:
            raise sqlite3.DatabaseError(f"its table {table} is not what was written")
