"""The audit log: rows are added, never changed; it belongs to one run; invites are used up."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.audit_log import AuditLog
from scheduler.audit_reading import CommittedWork, read_lost_peers, read_steps, read_weight_digests
from scheduler.audit_sums import TABLES
from scheduler.instructions import Record
from swarm.errors import CheckpointCorrupt
from swarm.wire.messages import Lease, MicrobatchDone, Work


def record(step: int) -> Record:
    work = tuple(
        (
            f"o{number}",
            MicrobatchDone(
                work=Work(step, Lease(number, 1), 2),
                route=("a", "b"),
                tokens=8,
                loss_sum=1.5,
                cursor=10 * step + number,
            ),
        )
        for number in range(2)
    )
    return Record(
        step=step, plan=1, round=1, tokens=16, loss_sum=3.0, grad_norm=0.5, work=work, digests=("g0", "g1", "g2")
    )


def opened(folder: Path, fingerprint: str = "f" * 64) -> AuditLog:
    return AuditLog(folder / "audit.sqlite", fingerprint, "{}")


def test_steps_are_read_back_in_order(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for step in range(3):
        log.append_step(record(step), term=1, now_s=100.0 + step)
    assert log.num_steps == 3
    found = list(read_steps(tmp_path / "audit.sqlite"))  # while the log is open
    log.close()
    assert [step.step for step in found] == [0, 1, 2]
    assert [step.committed_at_s for step in found] == [100.0, 101.0, 102.0]
    assert (found[0].tokens, found[0].loss_sum, found[0].grad_norm) == (16, 3.0, 0.5)
    assert found[2].work[1] == CommittedWork(
        number=1, owner="o1", cursor=21, tokens=8, loss_sum=1.5, attempt=2, route=("a", "b")
    )


def test_a_step_takes_the_median_time_between_commits(tmp_path: Path) -> None:
    """A long wait for lost members must not make the next one longer."""
    with contextlib.closing(opened(tmp_path)) as log:
        assert log.step_s == 0.0
        for step, at_s in enumerate([100.0, 102.0, 104.0, 400.0, 402.0]):
            log.append_step(record(step), term=1, now_s=at_s)
            assert log.step_s == (0.0 if step == 0 else 2.0)


def test_a_log_is_continued(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append_step(record(0), 1, 0.0)
    log.note_weights(1, 0, "a", "w")
    log.close()
    again = opened(tmp_path)
    assert again.num_steps == 1
    again.append_step(record(1), 2, 0.0)
    again.note_weights(1, 0, "a", "other")  # the first word stands
    again.note_weights(2, 0, "a", "v")
    again.append_loss("b", 1, "gone")
    again.close()
    path = tmp_path / "audit.sqlite"
    assert [step.step for step in read_steps(path)] == [0, 1]
    assert read_weight_digests(path) == {(1, 0): {"a": "w"}, (2, 0): {"a": "v"}}
    assert read_lost_peers(path) == [("b", 1, "gone")]


def test_a_step_is_written_once_and_whole(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append_step(record(0), 1, 0.0)
    with pytest.raises(sqlite3.IntegrityError):
        log.append_step(record(0), 1, 0.0)
    broken = record(1)
    twice = Record(
        step=1,
        plan=1,
        round=1,
        tokens=16,
        loss_sum=3.0,
        grad_norm=0.5,
        work=(broken.work[0], broken.work[0]),
        digests=("g",),
    )
    with pytest.raises(sqlite3.IntegrityError):
        log.append_step(twice, 1, 0.0)
    log.close()
    assert [step.step for step in read_steps(tmp_path / "audit.sqlite")] == [0]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", ["UPDATE {table} SET {column} = {column}", "DELETE FROM {table}"])
def test_no_row_can_be_changed_or_removed(tmp_path: Path, table: str, statement: str) -> None:
    log = opened(tmp_path)
    log.append_step(record(0), 1, 0.0)
    log.append_plan(1, 0, 1.0)
    log.append_loss("b", 0, "gone")
    log.note_weights(1, 0, "a", "w")
    assert log.admit(b"n", "peer", 1, 0.0)
    assert log.begin_term(0.0) == 1
    log.close()
    with sqlite3.connect(tmp_path / "audit.sqlite") as connection:
        column = connection.execute(f"PRAGMA table_info({table})").fetchone()[1]
        before = connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - names of our own tables
        assert before
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement.format(table=table, column=column))
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == before  # noqa: S608
    connection.close()


def test_every_table_is_protected(tmp_path: Path) -> None:
    opened(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "audit.sqlite")
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    assert tables == {*TABLES, "sums"}  # sums follow the rows of the others


def test_another_runs_log_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(CheckpointCorrupt, match=r"belongs to run f{12}, this is run a{12}"):
        opened(tmp_path, "a" * 64)
    opened(tmp_path).close()


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    path.write_bytes(b"hello, this is not a database" * 100)
    with pytest.raises(CheckpointCorrupt, match="is damaged or is not an audit log"):
        opened(tmp_path)
    with pytest.raises(CheckpointCorrupt, match="is damaged or is not an audit log"):
        list(read_steps(path))
    with pytest.raises(CheckpointCorrupt, match="is damaged or is not an audit log"):
        list(read_steps(tmp_path / "none"))


def test_an_invite_is_used_up_by_peers_not_by_visits(tmp_path: Path) -> None:
    log = opened(tmp_path)
    assert log.admit(b"n", "a", 2, 0.0)
    assert log.admit(b"n", "a", 2, 1.0)
    assert log.admit(b"n", "b", 2, 2.0)
    assert not log.admit(b"n", "c", 2, 3.0)
    assert log.admit(b"other", "c", 2, 3.0)
    log.close()
    again = opened(tmp_path)
    assert not again.admit(b"n", "c", 2, 4.0)
    assert again.admit(b"n", "a", 2, 4.0)
    again.close()


def test_a_rewound_log_goes_on_and_keeps_what_it_lost(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.sqlite", "f", "{}")
    for step in range(5):
        log.append_step(record(step), 2, 0.0)
        log.note_weights(step + 1, 0, "a", f"w{step}")
    log.append_plan(3, 0, 1.0)
    assert log.admit(b"nonce", "a", 1, 0.0)
    assert (log.begin_term(0.0), log.begin_term(0.0), log.last_plan) == (1, 2, 3)
    log.rewind(2)
    assert (log.num_steps, log.last_plan) == (2, 3)
    assert not log.admit(b"nonce", "b", 1, 0.0), "spent invites stay spent"
    log.append_step(record(2), 3, 0.0)
    log.close()
    assert [step.step for step in read_steps(tmp_path / "audit.sqlite")] == [0, 1, 2]
    (old,) = tmp_path.glob("audit-before-term-2.sqlite")
    assert [step.step for step in read_steps(old)] == list(range(5))
    assert set(read_weight_digests(tmp_path / "audit.sqlite")) == {(1, 0), (2, 0)}


def test_nothing_is_rewound_where_nothing_is_ahead(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.sqlite", "f", "{}")
    log.append_step(record(0), 1, 0.0)
    log.rewind(1)
    log.close()
    assert [path.name for path in tmp_path.glob("*.sqlite")] == ["audit.sqlite"]


_READ_AND_WRITE = """
import sys, threading
from pathlib import Path
from tests.unit.scheduler.test_audit_log import opened, record

log = opened(Path(sys.argv[1]))
is_over = threading.Event()

def read():
    while not is_over.is_set():
        log.steps_from(max(0, log.num_steps - 3), 3)

readers = [threading.Thread(target=read, daemon=True) for _ in range(3)]
for reader in readers:
    reader.start()
for step in range(300):
    log.append_step(record(step), 1, 0.0)
is_over.set()
for reader in readers:
    reader.join()
assert log.num_steps == 300
log.close()
"""


def test_who_reads_does_not_stop_who_writes(tmp_path: Path) -> None:
    """In a process of its own: when they stop each other, nothing there moves again, no timeout either."""
    subprocess.run([sys.executable, "-c", _READ_AND_WRITE, str(tmp_path)], timeout=150, check=True)
