"""The history checker finds every way in which a ledger can be wrong, in logs that were doctored on the disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.chaos.checker import Findings, check, waste
from benchmarks.chaos.history import PlanShape, read_folders, read_log, union
from scheduler.audit_log import AuditLog
from scheduler.instructions import Record
from swarm.errors import CheckpointCorrupt
from swarm.wire.messages import Lease, MicrobatchDone, Work

BATCH = 4
STEPS = 5
SECOND_TERM_FROM = 3
SHAPE = PlanShape((frozenset({"a", "b"}), frozenset({"c"})), frozenset({"o0", "o1"}))

OTHER = PlanShape((frozenset({"x"}),), frozenset({"y"}))
"""Told by a leader that died; nobody got it."""


def record(step: int) -> Record:
    work = tuple(
        (
            f"o{number % 2}",
            MicrobatchDone(
                work=Work(step, Lease(number, 1), 0),
                route=("ab"[number % 2], "c"),
                tokens=8,
                loss_sum=1.5,
                cursor=step * (BATCH // 2) + number // 2,
            ),
        )
        for number in range(BATCH)
    )
    tokens = 8 * BATCH
    return Record(
        step=step, plan=1 + step // 2, round=1, tokens=tokens, loss_sum=6.0, grad_norm=0.5, work=work, digests=("g",)
    )


def write(folder: Path, steps: range = range(STEPS)) -> Path:
    """A sound log, whose triggers and keys are taken away so that it can be doctored."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "audit.sqlite"
    log = AuditLog(path, "f" * 64, "{}")
    for step in steps:
        log.append_step(record(step), term=1 if step < SECOND_TERM_FROM else 2, now_s=100.0 + step)
        for peer in ("a", "b"):
            log.note_weights(step + 1, 0, peer, f"w{step}")
    log.close()
    with closing(sqlite3.connect(path)) as connection:
        for table in ("steps", "work", "hops", "weights", "gradients"):
            connection.execute(f"CREATE TABLE plain AS SELECT * FROM {table}")  # noqa: S608
            connection.execute(f"DROP TABLE {table}")
            connection.execute(f"ALTER TABLE plain RENAME TO {table}")
        connection.commit()
    return path


def doctor(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0, "the log was changed"
        connection.commit()


def checked(*folders: Path) -> Findings:
    kept, _ = read_folders(folders)
    return check(union(kept), BATCH, {number: [OTHER, SHAPE] for number in range(1, 4)})


def test_a_sound_history_has_no_findings(tmp_path: Path) -> None:
    write(tmp_path / "leader")
    write(tmp_path / "standby", range(2, STEPS))
    found = checked(tmp_path / "leader", tmp_path / "standby")
    assert found == Findings(digests_compared=STEPS)
    assert found.broken == []


LOST = "DELETE FROM work WHERE step = 2 AND number = 3"
CHANGED = [
    ("microbatches_lost", [LOST, "UPDATE steps SET tokens = tokens - 8 WHERE step = 2"]),
    ("sums_wrong", ["UPDATE steps SET tokens = tokens + 1 WHERE step = 2"]),
    ("steps_lost", ["DELETE FROM steps WHERE step = 2"]),
    ("terms_back", ["UPDATE steps SET term = 1 WHERE step = 4"]),
    ("plans_back", ["UPDATE steps SET plan = 1 WHERE step = 4"]),
    ("cursors_reused", ["UPDATE work SET cursor = 0 WHERE step = 4 AND number = 0"]),
    ("digests_differ", ["UPDATE weights SET digest = 'other' WHERE num_steps = 3 AND peer = 'b'"]),
    ("routes_wrong", ["DELETE FROM hops WHERE step = 2 AND number = 0 AND stage = 1"]),
    ("routes_wrong", ["UPDATE hops SET peer = 'stranger' WHERE step = 2 AND number = 0 AND stage = 1"]),
    ("routes_wrong", ["UPDATE work SET owner = 'stranger', cursor = 99 WHERE step = 2 AND number = 0"]),
]


@pytest.mark.parametrize(("name", "statements"), CHANGED)
def test_one_change_is_found_and_nothing_else(tmp_path: Path, name: str, statements: list[str]) -> None:
    doctor(write(tmp_path), *statements)
    found = checked(tmp_path)
    assert found.broken == [name]
    assert getattr(found, name) == 1
    assert len(found.examples) == 1


def test_a_norm_that_one_log_does_not_know_is_no_difference(tmp_path: Path) -> None:
    write(tmp_path / "leader")
    doctor(write(tmp_path / "standby"), "UPDATE steps SET grad_norm = 0.0 WHERE step = 2")
    assert checked(tmp_path / "leader", tmp_path / "standby").broken == []
    doctor(tmp_path / "standby" / "audit.sqlite", "UPDATE steps SET grad_norm = 9.0 WHERE step = 2")
    assert checked(tmp_path / "leader", tmp_path / "standby").broken == ["steps_that_differ"]


def test_a_microbatch_that_is_counted_twice_is_found(tmp_path: Path) -> None:
    again = "INSERT INTO work SELECT step, number, 2, 0, owner, 77, tokens, loss_sum FROM work WHERE step = 2 LIMIT 1"
    doctor(write(tmp_path), again, "UPDATE steps SET tokens = tokens + 8 WHERE step = 2")
    found = checked(tmp_path)
    assert found.broken == ["microbatches_double"]
    assert found.microbatches_double == 1


def test_a_number_beyond_the_batch_is_one_too_many(tmp_path: Path) -> None:
    doctor(write(tmp_path), "UPDATE work SET number = 9 WHERE step = 2 AND number = 3")
    found = checked(tmp_path)
    assert (found.microbatches_lost, found.microbatches_double) == (1, 1)


def test_the_same_text_twice_in_a_step_is_found(tmp_path: Path) -> None:
    doctor(write(tmp_path), "UPDATE work SET cursor = 4 WHERE step = 2 AND number = 2")
    found = checked(tmp_path)
    assert found.broken == ["cursors_reused"]


def test_logs_that_disagree_are_found(tmp_path: Path) -> None:
    write(tmp_path / "leader")
    doctor(write(tmp_path / "standby"), "UPDATE work SET cursor = 99 WHERE step = 4 AND number = 0")
    found = checked(tmp_path / "leader", tmp_path / "standby")
    assert found.broken == ["microbatches_double", "steps_that_differ"]
    assert "step 4" in found.examples[0]


def test_a_missing_step_that_another_log_has_is_not_lost(tmp_path: Path) -> None:
    write(tmp_path / "leader", range(3))
    write(tmp_path / "standby", range(2, STEPS))
    assert checked(tmp_path / "leader", tmp_path / "standby").broken == []


def test_a_step_that_was_told_and_is_in_no_log_is_lost(tmp_path: Path) -> None:
    history = union([read_log(write(tmp_path), "leader")])
    assert check(history, BATCH, told=range(STEPS)).broken == []
    assert check(history, BATCH, told=range(STEPS + 1)).steps_lost == 1


def test_without_plans_a_peer_at_two_stages_is_found(tmp_path: Path) -> None:
    doctor(write(tmp_path), "UPDATE hops SET peer = 'a' WHERE step = 3 AND number = 1 AND stage = 1")
    assert check(union([read_log(tmp_path / "audit.sqlite", "leader")]), BATCH).routes_wrong == 1


def test_the_earliest_word_of_a_commit_counts(tmp_path: Path) -> None:
    write(tmp_path / "leader")
    doctor(write(tmp_path / "standby"), "UPDATE steps SET committed_at_s = committed_at_s + 5")
    kept, _ = read_folders([tmp_path / "standby", tmp_path / "leader"])
    history = union(kept)
    assert [step.committed_at_s for step in history.steps] == [100.0 + step for step in range(STEPS)]
    assert not history.versions


def test_what_was_computed_again_is_waste(tmp_path: Path) -> None:
    doctor(write(tmp_path), "UPDATE work SET attempt = 2 WHERE step = 1 AND number = 0")
    aside = write(tmp_path / "old")
    doctor(
        aside, "UPDATE work SET lease = 9 WHERE step = 4", "UPDATE work SET attempt = 2 WHERE step = 1 AND number = 0"
    )
    aside.rename(tmp_path / "audit-before-term-2.sqlite")
    kept, old = read_folders([tmp_path])
    assert (len(kept), len(old)) == (1, 1)
    wasted = waste(union(kept).steps, old)
    assert (wasted.microbatches, wasted.repeated_attempts, wasted.repeated_steps) == (STEPS * BATCH, 2, 1)
    assert wasted.fraction == pytest.approx(6 / 26)


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(CheckpointCorrupt):
        read_folders([tmp_path])
