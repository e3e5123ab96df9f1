"""The journal gives back what was put into it, or says that it cannot; it never gives anything else."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peers import journal_files
from peers.journal import MAX_AVERAGES, Journal, Kept, RoundKey
from swarm.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from swarm.model.spans import ENDS, Span

SPAN: Span = (2, 6)
OTHER: Span = (6, 9)
BUDGET_BYTES = 1 << 20


def key(round_number: int, term: int = 1) -> RoundKey:
    return RoundKey(term, round_number)


def gradient(step: int, key: RoundKey, num_bytes: int = 200) -> dict[str, bytes]:
    """Deterministic parts that differ by step and round."""
    seed = f"{step} {key.term} {key.round}".encode()
    return {f"gradient-{layer:05d}": hashlib.shake_128(seed + bytes([layer])).digest(num_bytes) for layer in (2, 3)}


def state_after(num_steps: int) -> dict[str, bytes]:
    return {"model-00002": b"weights %d " % num_steps * 50, "optimizer-00002": b"moments %d " % num_steps * 80}


def advance(journal: Journal, span: Span, steps: range) -> None:
    for step in steps:
        journal.put_average(span, step, key(step), gradient(step, key(step)), record=b"ledger %d" % step)
        journal.commit(span, step, key(step), grad_norm=float(step))


def range_of(journal: Journal, span: Span = SPAN) -> tuple[int, int, int] | None:
    return next(((kept.first, kept.committed, kept.last) for kept in journal.kept() if kept.span == span), None)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal", BUDGET_BYTES)


def reopened(journal: Journal, budget_bytes: int = BUDGET_BYTES) -> Journal:
    """As after a kill -9."""
    return Journal(journal._root, budget_bytes)


def test_begins_with_the_seed_alone(journal: Journal) -> None:
    assert journal.kept() == []
    assert journal.snapshot(SPAN, at_most=9) == (0, {})
    assert journal.record(ENDS, 0) == b""
    assert not journal.wants_snapshot(SPAN)
    with pytest.raises(CheckpointMissing):
        journal.average(SPAN, 0)


def test_a_new_process_finds_every_state(journal: Journal) -> None:
    advance(journal, SPAN, range(3))
    journal.put_snapshot(SPAN, 3, state_after(3))
    journal.put_average(SPAN, 3, key(70, term=2), gradient(3, key(70, term=2)))

    after = reopened(journal)

    assert after.kept() == [
        Kept(SPAN, 0, 4, committed=3, key=key(70, term=2), committed_key=RoundKey(0, 0), grad_norm=2.0, base=3)
    ]
    assert after.snapshot(SPAN, at_most=2) == (0, {})
    assert after.snapshot(SPAN, at_most=4) == (3, state_after(3))
    for step in range(3):
        average = after.average(SPAN, step)
        assert (average.parts, average.key, average.grad_norm) == (gradient(step, key(step)), key(step), float(step))
    assert after.average(SPAN, 3).grad_norm is None


def test_groups_are_sorted_and_records_are_the_ends(journal: Journal) -> None:
    for span in (OTHER, ENDS, SPAN):
        advance(journal, span, range(2))
    journal.put_average(ENDS, 2, key(9), gradient(2, key(9)))
    assert [kept.span for kept in journal.kept()] == [ENDS, SPAN, OTHER]
    assert [journal.record(ENDS, step) for step in range(4)] == [b"ledger 0", b"ledger 1", b"", b""]


def test_says_which_rounds_led_to_the_newest_states(journal: Journal) -> None:
    def newest() -> tuple[RoundKey, RoundKey, float, int]:
        kept = journal.kept()[0]
        return kept.key, kept.committed_key, kept.grad_norm, kept.base

    journal.put_average(SPAN, 0, key(5), gradient(0, key(5)))
    assert newest() == (key(5), RoundKey(0, 0), 0.0, 0)
    journal.commit(SPAN, 0, key(5), 0.5)
    assert newest() == (key(5), key(5), 0.5, 0)
    journal.put_snapshot(SPAN, 1, state_after(1))
    assert newest() == (RoundKey(0, 0), RoundKey(0, 0), 0.5, 1)
    journal.put_snapshot(SPAN, 1, state_after(1), key(5))
    assert newest() == (key(5), key(5), 0.5, 1)
    journal.put_average(SPAN, 1, key(7), gradient(1, key(7)))
    assert newest() == (key(7), key(5), 0.5, 1)
    assert journal.key(SPAN, 1) == key(7)
    with pytest.raises(CheckpointMissing):
        journal.key(SPAN, 2)


def test_another_round_replaces_an_average_and_all_later_history(journal: Journal) -> None:
    advance(journal, SPAN, range(5))
    journal.put_snapshot(SPAN, 4, state_after(4))
    journal.put_average(SPAN, 3, key(99), gradient(3, key(99)))
    assert range_of(journal) == (0, 3, 4)
    assert journal.average(SPAN, 3).parts == gradient(3, key(99))
    assert journal.average(SPAN, 3).grad_norm is None
    assert journal.snapshot(SPAN, at_most=9) == (0, {})


def test_the_same_round_again_changes_nothing(journal: Journal) -> None:
    advance(journal, SPAN, range(3))
    before = tree(journal._root)
    journal.put_average(SPAN, 1, key(1), gradient(1, key(1)))
    journal.commit(SPAN, 1, key(1), 1.0)
    assert tree(journal._root) == before


def test_commit_is_for_the_round_that_is_there(journal: Journal) -> None:
    journal.put_average(SPAN, 0, key(1), gradient(0, key(1)))
    for step, wrong in ((0, key(2)), (1, key(1))):
        with pytest.raises(CheckpointMissing):
            journal.commit(SPAN, step, wrong, 1.0)
    assert range_of(journal) == (0, 0, 1)
    journal.commit(SPAN, 0, key(1), 0.1)
    assert range_of(reopened(journal)) == (0, 1, 1)
    assert journal.average(SPAN, 0).grad_norm == 0.1


def test_an_average_that_leads_nowhere_is_refused(journal: Journal) -> None:
    advance(journal, SPAN, range(2))
    journal.put_average(SPAN, 2, key(2), gradient(2, key(2)))
    for step in (3, 4):  # not committed, and not there
        with pytest.raises(CheckpointMissing, match="put a snapshot first"):
            journal.put_average(SPAN, step, key(step), gradient(step, key(step)))
    journal.put_snapshot(SPAN, 7, state_after(7))
    with pytest.raises(CheckpointMissing):
        journal.put_average(SPAN, 2, key(5), gradient(2, key(5)))
    advance(journal, SPAN, range(7, 8))
    assert range_of(journal) == (7, 8, 8)


def test_averages_after_a_gap_go(journal: Journal) -> None:
    advance(journal, SPAN, range(6))
    folder = journal._root / "layers-00002-00006"
    (folder / "average-00000003.bin").unlink()
    assert range_of(journal) == (0, 3, 3)
    advance(journal, SPAN, range(3, 4))
    assert range_of(journal) == (0, 4, 4)
    assert not (folder / "average-00000004.bin").exists()
    (folder / "average-00000001.bin").unlink()
    journal.put_snapshot(SPAN, 1, state_after(1))
    assert not (folder / "average-00000002.bin").exists()


def test_history_before_a_snapshot_stays_until_two_averages_follow(journal: Journal) -> None:
    advance(journal, SPAN, range(MAX_AVERAGES - 1))
    assert not journal.wants_snapshot(SPAN)
    advance(journal, SPAN, range(MAX_AVERAGES - 1, MAX_AVERAGES))
    assert journal.wants_snapshot(SPAN)
    journal.put_snapshot(SPAN, 16, state_after(16))
    assert not journal.wants_snapshot(SPAN)
    assert range_of(journal) == (0, 16, 16)
    advance(journal, SPAN, range(16, 17))
    assert range_of(journal) == (0, 17, 17)
    advance(journal, SPAN, range(17, 20))
    assert range_of(journal) == (16, 20, 20)
    journal.put_snapshot(SPAN, 20, state_after(20))
    journal.put_snapshot(SPAN, 21, state_after(21))
    assert range_of(journal) == (16, 21, 21)
    assert not (journal._root / "layers-00002-00006" / "average-00000015.bin").exists()


def test_a_late_snapshot_keeps_the_averages_after_it(journal: Journal) -> None:
    advance(journal, SPAN, range(5))
    journal.put_snapshot(SPAN, 3, state_after(3))
    assert range_of(journal) == (3, 5, 5)


def test_the_span_that_a_peer_left_goes_when_the_new_one_needs_it_no_more(journal: Journal) -> None:
    advance(journal, SPAN, range(4))
    journal.put_snapshot(OTHER, 4, state_after(4))
    assert range_of(journal) == (0, 4, 4)
    advance(journal, OTHER, range(4, 8))
    assert range_of(journal) == (0, 4, 4)
    journal.put_snapshot(OTHER, 7, state_after(7))
    advance(journal, OTHER, range(8, 9))
    assert [kept.span for kept in journal.kept()] == [OTHER]
    assert not (journal._root / "layers-00002-00006").exists()


def test_rewind_drops_what_came_after_in_every_group(journal: Journal) -> None:
    for span in (ENDS, SPAN):
        advance(journal, span, range(4))
    journal.put_snapshot(SPAN, 4, state_after(4))
    journal.put_snapshot(OTHER, 4, state_after(4))
    journal.rewind(2)
    assert [(kept.span, kept.first, kept.last) for kept in reopened(journal).kept()] == [(ENDS, 0, 2), (SPAN, 0, 2)]
    journal.rewind(0)
    assert journal.kept() == []


def test_clear_leaves_nothing(journal: Journal) -> None:
    advance(journal, SPAN, range(3))
    journal.clear()
    assert journal.kept() == []
    assert tree(journal._root) == {}


def test_beyond_the_budget_nothing_is_written(journal: Journal) -> None:
    advance(journal, SPAN, range(3))
    before = tree(journal._root)
    tight = reopened(journal, budget_bytes=sum(map(len, before.values())) + 100)
    with pytest.raises(CheckpointError, match=r"\[S600\].*budget"):
        tight.put_snapshot(SPAN, 3, state_after(3))
    with pytest.raises(CheckpointError, match=r"\[S600\].*budget"):
        tight.put_average(SPAN, 1, key(9), gradient(1, key(9)))
    assert tree(journal._root) == before


def test_superfluous_files_make_room(journal: Journal) -> None:
    advance(journal, SPAN, range(6))
    taken = sum(map(len, tree(journal._root).values()))
    (journal._root / "layers-00002-00006" / "average-00000002.bin").unlink()
    reopened(journal, budget_bytes=taken).put_average(SPAN, 2, key(9), gradient(2, key(9)))
    assert range_of(journal) == (0, 2, 3)


def test_the_budget_holds_at_every_moment(tmp_path: Path) -> None:
    probe = Journal(tmp_path / "probe", BUDGET_BYTES)
    advance(probe, SPAN, range(1))
    average_bytes = sum(map(len, tree(tmp_path / "probe").values()))
    probe.clear()
    probe.put_snapshot(SPAN, 1, state_after(10**6))
    budget_bytes = 2 * sum(map(len, tree(tmp_path / "probe").values())) + (MAX_AVERAGES + 3) * (average_bytes + 20)
    journal = Journal(tmp_path / "journal", budget_bytes)
    for step in range(100):
        advance(journal, SPAN, range(step, step + 1))
        if journal.wants_snapshot(SPAN):
            journal.put_snapshot(SPAN, step + 1, state_after(step + 1))
        assert sum(map(len, tree(tmp_path / "journal").values())) <= budget_bytes


@pytest.mark.parametrize("fails_at", range(3))
def test_a_full_disk_leaves_the_old_intact(journal: Journal, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    advance(journal, SPAN, range(3))
    journal.put_average(SPAN, 3, key(3), gradient(3, key(3)))
    journal.put_snapshot(SPAN, 3, state_after(3))
    before = tree(journal._root)
    written = 0

    def refuse(file: IO[bytes], content: bytes) -> None:
        nonlocal written
        written += 1
        file.write(content if written <= fails_at else content[: len(content) // 2])
        if written > fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal_files, "_write", refuse)
    with pytest.raises(CheckpointError, match=r"No space left on device.*free space"):
        journal.put_snapshot(SPAN, 3, state_after(3))
    assert written == fails_at + 1
    written = 0
    with pytest.raises(CheckpointError, match="No space left on device"):
        journal.put_average(SPAN, 1, key(9), gradient(1, key(9)))
    assert written == fails_at + 1
    written = fails_at
    with pytest.raises(CheckpointError, match="No space left on device"):
        journal.commit(SPAN, 3, key(3), 1.0)
    assert tree(journal._root) == before
    assert list(journal._root.rglob("*.partial")) == []


def test_files_that_cannot_be_read_for_the_moment_are_not_forgotten(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance(journal, SPAN, range(3))
    before = tree(journal._root)

    def too_many(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", too_many)
        for attempt in (journal.kept, lambda: journal.average(SPAN, 1), lambda: journal.rewind(9)):
            with pytest.raises(CheckpointError, match="Too many open files") as caught:
                attempt()
            assert not isinstance(caught.value, CheckpointCorrupt)
    assert tree(journal._root) == before


def test_what_the_medium_lost_is_damaged(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    advance(journal, SPAN, range(3))
    whole = Path.open

    def bad_sector(path: Path, mode: str = "r") -> object:
        if path.name == "average-00000001.bin":
            raise OSError(errno.EIO, "Input/output error")
        return whole(path, mode)

    monkeypatch.setattr(Path, "open", bad_sector)
    assert range_of(journal) == (0, 1, 1)
    with pytest.raises(CheckpointCorrupt, match="Input/output error"):
        journal.average(SPAN, 1)
    monkeypatch.undo()
    assert range_of(journal) == (0, 1, 1)


def test_sizes_and_seals_show_without_reading_everything(journal: Journal) -> None:
    advance(journal, SPAN, range(6))
    journal.put_snapshot(SPAN, 5, state_after(5))
    folder = journal._root / "layers-00002-00006"
    part = folder / "snapshot-00000005" / "model-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    assert journal.kept()[0].base == 0
    average = folder / "average-00000004.bin"
    average.write_bytes(average.read_bytes() + b"more")
    assert range_of(journal) == (0, 4, 4)
    mark = folder / "average-00000003.committed"
    mark.write_bytes(mark.read_bytes() + b"more")
    assert range_of(journal) == (0, 3, 4)


def test_the_mark_of_a_replaced_round_does_not_vouch_for_another(journal: Journal) -> None:
    advance(journal, SPAN, range(2))
    mark = journal._root / "layers-00002-00006" / "average-00000001.committed"
    stale = mark.read_bytes()
    journal.put_average(SPAN, 1, key(9), gradient(1, key(9)))
    mark.write_bytes(stale)  # as a power cut may leave it, which does not keep the order of renames
    assert range_of(journal) == (0, 1, 2)
    assert journal.average(SPAN, 1).grad_norm is None


def test_leftovers_of_a_killed_process_go(journal: Journal) -> None:
    advance(journal, SPAN, range(2))
    journal.put_snapshot(SPAN, 2, state_after(2))
    before = tree(journal._root)
    folder = journal._root / "layers-00002-00006"
    (folder / "average-00000002.bin.partial").write_bytes(b"half")
    shutil.copytree(folder / "snapshot-00000002", folder / ".f00d.partial")
    shutil.copytree(folder, journal._root / ".beef.partial")
    assert range_of(journal) == (0, 2, 2)
    assert tree(reopened(journal)._root) == before


def test_a_killed_replacement_leaves_a_shorter_history(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    advance(journal, SPAN, range(5))
    journal.put_snapshot(SPAN, 5, state_after(5))
    unlink = Path.unlink
    for survivors in range(8):
        copy = journal._root.with_name(f"copy-{survivors}")
        shutil.copytree(journal._root, copy)
        removed = 0

        def killed(path: Path, missing_ok: bool = False, survivors: int = survivors) -> None:
            nonlocal removed
            if removed == survivors:
                raise KeyboardInterrupt
            removed += 1
            unlink(path, missing_ok)

        dying = Journal(copy, BUDGET_BYTES)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                dying.put_average(SPAN, 1, key(9), gradient(1, key(9)))
        first, committed, last = range_of(Journal(copy, BUDGET_BYTES)) or (0, 0, 0)
        assert first == 0
        assert 1 <= committed <= last <= 5
        if last > 1 and Journal(copy, BUDGET_BYTES).average(SPAN, 1).key == key(9):
            assert last == 2


_CHILD = """
import sys
from pathlib import Path
from tests.unit.peers.test_journal import BUDGET_BYTES, SPAN, Journal, advance, state_after
journal = Journal(Path(sys.argv[1]), BUDGET_BYTES)
start = max([kept.committed for kept in journal.kept()], default=0)
for step in range(start, start + 1000):
    advance(journal, SPAN, range(step, step + 1))
    print(step + 1, flush=True)
    if journal.wants_snapshot(SPAN):
        journal.put_snapshot(SPAN, step + 1, state_after(step + 1))
"""


def test_what_was_committed_outlives_kill_9(journal: Journal) -> None:
    dice = random.Random(3)
    for _ in range(3):
        arguments = [sys.executable, "-c", _CHILD, str(journal._root)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(dice.randrange(10, 30)):
                heard = int(child.stdout.readline())
            time.sleep(dice.random() * 0.01)  # somewhere in the middle of the next writes
            child.kill()
            heard = max([heard, *map(int, child.stdout.read().split())])
        journal = reopened(journal)
        first, committed, last = range_of(journal) or (0, 0, 0)
        assert heard <= committed <= heard + 1
        assert salvage(journal) == set(range(first, last + 1))


def damage(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if dice.random() < 0.3:
        del content[dice.randrange(len(content)) :]
    else:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def salvage(journal: Journal) -> set[int]:
    """Rebuild every state that the journal promises, as a peer would after errors; returns which it could."""
    while (promised := range_of(journal)) is not None:
        first, committed, last = promised
        rebuilt = set()
        before = tree(journal._root)
        try:
            for num_steps in range(first, last + 1):
                base, parts = journal.snapshot(SPAN, at_most=num_steps)
                assert parts == (state_after(base) if base else {})
                for step in range(base, num_steps):
                    average = journal.average(SPAN, step)
                    assert (average.parts, average.key) == (gradient(step, key(step)), key(step))
                    assert average.grad_norm == (float(step) if step < committed else None)
                rebuilt.add(num_steps)
            return rebuilt
        except CheckpointCorrupt:
            assert tree(journal._root).keys() < before.keys()  # what is damaged is gone
    return set()


def test_damage_is_never_taken_for_good(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "whole", BUDGET_BYTES)
    advance(journal, SPAN, range(4))
    journal.put_snapshot(SPAN, 4, state_after(4))
    advance(journal, SPAN, range(4, 5))
    journal.put_snapshot(SPAN, 5, state_after(5))
    journal.put_average(SPAN, 5, key(5), gradient(5, key(5)))
    assert range_of(journal) == (0, 5, 6)
    # After the loss of a file, these states are left; nothing is lost where a snapshot and an average lead to a state.
    left = {
        "snapshot-00000004": {0, 1, 2, 3, 4, 5, 6},
        "snapshot-00000005": {0, 1, 2, 3, 4, 5, 6},
        "average-00000000": {4, 5, 6},
        "average-00000001": {4, 5, 6},
        "average-00000002": {4, 5, 6},
        "average-00000003": {0, 1, 2, 3, 4, 5, 6},
        "average-00000004": {0, 1, 2, 3, 4, 5, 6},
        "average-00000005": {0, 1, 2, 3, 4, 5},
    }
    files = [path.relative_to(journal._root) for path in journal._root.rglob("*") if path.is_file()]
    dice = random.Random(7)
    for number in range(200):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(journal._root, copy)
        file = files[number % len(files)]
        damage(copy / file, dice)
        survivor = Journal(copy, BUDGET_BYTES)
        name = next(part for part in file.parts if part[:8] in ("snapshot", "average-")).partition(".")[0]
        assert salvage(survivor) == left[name], file
        if name.startswith("snapshot"):
            assert survivor.snapshot(SPAN, at_most=6)[0] == (4 if name.endswith("5") else 5)
        shutil.rmtree(copy)


def test_a_damaged_record_is_not_returned(journal: Journal) -> None:
    advance(journal, ENDS, range(2))
    path = journal._root / "ends" / "average-00000001.bin"
    path.write_bytes(path.read_bytes().replace(b"ledger 1", b"ledger 2"))
    assert range_of(journal, ENDS) == (0, 2, 2)
    with pytest.raises(CheckpointCorrupt):
        journal.record(ENDS, 1)
    assert range_of(journal, ENDS) == (0, 1, 1)


class Group:
    """What a group's journal must hold, in memory and without a thought for files."""

    def __init__(self) -> None:
        self.snapshots: set[int] = set()
        self.averages: dict[int, RoundKey] = {}
        self.committed: set[int] = set()
        self.states: dict[int, bytes] = {0: b"seed"}

    def can_rebuild(self, num_steps: int) -> bool:
        if num_steps == 0 or num_steps in self.snapshots:
            return True
        return num_steps - 1 in self.committed and self.can_rebuild(num_steps - 1)

    @property
    def range(self) -> tuple[int, int, int]:
        first = committed = max(self.snapshots, default=0)
        while first > 0 and self.can_rebuild(first - 1):
            first -= 1
        while self.can_rebuild(committed + 1):
            committed += 1
        return first, committed, committed + (committed in self.averages)

    def forget(self, from_step: int, to_step: int) -> None:
        self.averages = {step: key for step, key in self.averages.items() if not from_step <= step < to_step}
        self.committed &= set(self.averages)

    def rewind(self, num_steps: int) -> None:
        self.snapshots = {found for found in self.snapshots if found <= num_steps}
        self.forget(num_steps, 10**9)

    def prune(self) -> None:
        """What the rule of two averages allows to go."""
        newest, last = max(self.snapshots, default=0), self.range[2]
        floor = newest
        if last - newest < 2:
            floor = max([base for base in (0, *self.snapshots) if base <= newest - 2], default=0)
        self.snapshots = {found for found in self.snapshots if found >= floor}
        self.forget(0, floor)
        self.averages = {step: key for step, key in self.averages.items() if self.can_rebuild(step)}


class JournalMachine(RuleBasedStateMachine):
    """Any order of operations, on two groups: what the journal says and rebuilds is what the model says."""

    spans = st.sampled_from([ENDS, SPAN])

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.journal = Journal(self.root, BUDGET_BYTES)
        self.groups = {ENDS: Group(), SPAN: Group()}
        self.num_rounds = 0

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def after_writing(self, span: Span) -> None:
        for group in self.groups.values():
            group.prune()
        ranges = {each: group.range for each, group in self.groups.items() if group.range[2]}
        newest = max(ranges.values(), key=lambda found: (found[2], -found[0]), default=(0, 0, 0))
        for each, found in ranges.items():
            if each != span and found[2] < newest[0]:
                self.groups[each] = Group()

    @rule(span=spans, back=st.integers(0, 1))
    def put_average(self, span: Span, back: int) -> None:
        group = self.groups[span]
        first, committed, _ = group.range
        step = max(first, committed - back)
        self.num_rounds += 1
        round_key, parts = key(self.num_rounds), gradient(step, key(self.num_rounds), num_bytes=3)
        self.journal.put_average(span, step, round_key, parts, record=b"%d" % self.num_rounds)
        state = group.states[step]
        group.rewind(step)
        group.averages[step] = round_key
        group.states[step + 1] = hashlib.sha256(state + b"".join(parts.values())).digest()
        self.after_writing(span)

    @rule(span=spans)
    def put_average_beyond(self, span: Span) -> None:
        with pytest.raises(CheckpointMissing):
            self.journal.put_average(span, self.groups[span].range[1] + 1, key(0), {})

    @rule(span=spans)
    def commit(self, span: Span) -> None:
        group = self.groups[span]
        _, committed, last = group.range
        if last == committed:
            with pytest.raises(CheckpointMissing):
                self.journal.commit(span, last, key(0), 1.0)
        else:
            self.journal.commit(span, committed, group.averages[committed], 1.0)
            group.committed.add(committed)

    @rule(span=spans, back=st.integers(0, 2))
    def put_snapshot(self, span: Span, back: int) -> None:
        group = self.groups[span]
        first, committed, _ = group.range
        num_steps = max(first, committed - back)
        if num_steps > 0:
            self._put_snapshot(span, num_steps, group.states[num_steps])

    @rule(span=spans, ahead=st.integers(2, 4))
    def load_a_state_from_elsewhere(self, span: Span, ahead: int) -> None:
        num_steps = self.groups[span].range[2] + ahead
        self._put_snapshot(span, num_steps, b"elsewhere %d" % num_steps)

    def _put_snapshot(self, span: Span, num_steps: int, state: bytes) -> None:
        self.journal.put_snapshot(span, num_steps, {"model-ends": state})
        self.groups[span].snapshots.add(num_steps)
        self.groups[span].states[num_steps] = state
        self.after_writing(span)

    @rule(back=st.integers(0, 4))
    def rewind(self, back: int) -> None:
        num_steps = max(0, max(group.range[2] for group in self.groups.values()) - back)
        self.journal.rewind(num_steps)
        for group in self.groups.values():
            group.rewind(num_steps)
        self.after_writing((-1, -1))

    @rule()
    def restart(self) -> None:
        self.journal = Journal(self.root, BUDGET_BYTES)

    @precondition(lambda self: self.num_rounds > 10)
    @rule()
    def clear(self) -> None:
        self.journal.clear()
        self.groups = {ENDS: Group(), SPAN: Group()}

    @invariant()
    def says_and_rebuilds_what_the_model_says(self) -> None:
        ranges = {span: group.range for span, group in self.groups.items() if group.range[2]}
        assert {kept.span: (kept.first, kept.committed, kept.last) for kept in self.journal.kept()} == ranges
        for span, (first, _, last) in ranges.items():
            for num_steps in range(first, last + 1):
                base, parts = self.journal.snapshot(span, at_most=num_steps)
                state = parts["model-ends"] if base else b"seed"
                for step in range(base, num_steps):
                    average = self.journal.average(span, step)
                    assert (average.grad_norm is None) == (step not in self.groups[span].committed)
                    state = hashlib.sha256(state + b"".join(average.parts.values())).digest()
                assert state == self.groups[span].states[num_steps]


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
