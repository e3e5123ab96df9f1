"""Row 13: a thousand flipped bytes and truncations in every file that a restart relies on.

Whatever is read afterwards is what was written, or an error with a number and a remedy, or the good one before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peers.allegiance import Allegiance
from peers.journal import Journal
from peers.keepsake import Keepsake
from peers.oath import Oath
from scheduler.audit_log import AuditLog
from scheduler.audit_reading import read_lost_peers, read_steps, read_weight_digests
from scheduler.election import Ballot
from scheduler.own_checkpoint import OwnCheckpoint
from scheduler.run_dir import RunDir
from swarm.admission import Certificate, seal
from swarm.data.shards import Shard
from swarm.data.tokenizer import ByteTokenizer
from swarm.errors import CheckpointCorrupt, CheckpointMissing, SwarmError
from swarm.identity import Identity
from swarm.model.blueprint import layout
from swarm.model.spans import Span
from swarm.net.admitting import Admission
from swarm.net.shelf import Shelf
from swarm.training.checkpoint import CheckpointReader, CheckpointWriter
from swarm.wire.messages import RoundKey
from tests.support import plans
from tests.support.tiny_models import run_config
from tests.unit.scheduler.test_audit_log import record

NUM_DAMAGES = 1000
CONFIG = run_config()


def damaged(files: list[Path], seed: int = 13) -> Iterator[Path]:
    """Damage one file after another, in `NUM_DAMAGES` ways; each is whole again before the next is damaged."""
    whole = {file: file.read_bytes() for file in files}
    dice = random.Random(seed)
    for number in range(NUM_DAMAGES):
        file = files[number % len(files)]
        content = whole[file]
        place = dice.randrange(len(content))
        if dice.random() < 0.5:
            changed = content[:place]
        else:
            changed = content[:place] + bytes([content[place] ^ (1 << dice.randrange(8))]) + content[place + 1 :]
        file.write_bytes(changed)
        assert file.read_bytes() != content, "the fault fired"
        yield file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def outcomes(files: list[Path], read: Callable[[], object], expected: object) -> int:
    """How often reading failed after a damage; all other times it gave what was written."""
    assert read() == expected
    errors: list[SwarmError] = []
    for file in damaged(files):
        try:
            found = read()
        except SwarmError as error:
            errors.append(error)
        else:
            assert found == expected, file
    assert read() == expected
    assert all(error.code != SwarmError.code and error.remedy for error in errors)
    return len(errors)


# --- the scheduler's files -------------------------------------------------------------------------------------------


def write_checkpoint(root: Path, step: int) -> None:
    with CheckpointWriter(root, CONFIG, '{"a": 1}') as writer:
        for name in ("model-00000", "model-00001", "model-ends", "optimizer-00001"):
            writer.add_part(name, {"weight": torch.full((64,), float(step))})
        writer.finish(step, {"alice": step, "bob": 3})


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    """Row 13: checkpoint."""
    run_dir = RunDir(tmp_path)
    for step in (10, 20):
        write_checkpoint(run_dir.checkpoints, step)
    shelf = Shelf()
    own = OwnCheckpoint(run_dir, CONFIG, layout(CONFIG), shelf)

    def offered() -> tuple[int | None, dict[str, int], bytes]:
        return own.num_steps, dict(own.cursors_at(20)), shelf.parts(False, own.num_steps or 0)["model-00001"]

    assert own.look() == []
    newest = offered()
    assert newest[:2] == (20, {"alice": 20, "bob": 3})
    parts = {step: (run_dir.checkpoints / f"step-{step:08d}/model-00001.safetensors").read_bytes() for step in (10, 20)}
    for file in damaged(sorted((run_dir.checkpoints / "step-00000020").iterdir())):
        [problem] = own.look()
        assert problem.startswith("[S601]")
        assert file.name in problem
        assert offered() == (10, {"alice": 10, "bob": 3}, parts[10])
        with pytest.raises(CheckpointCorrupt):
            CheckpointReader(file.parent).verify()
    assert own.look() == []
    assert offered() == newest


def test_a_checkpoint_whose_manifest_is_lost_gives_way_too(tmp_path: Path) -> None:
    """Row 13: checkpoint."""
    run_dir = RunDir(tmp_path)
    for step in (10, 20):
        write_checkpoint(run_dir.checkpoints, step)
    (run_dir.checkpoints / "step-00000020" / "manifest.json").unlink()
    own = OwnCheckpoint(run_dir, CONFIG, layout(CONFIG), Shelf())
    [problem] = own.look()
    assert "step-00000020" in problem
    assert own.num_steps == 10


def write_log(path: Path) -> None:
    log = AuditLog(path, "f" * 64, "{}")
    for step in range(4):
        log.append_step(record(step), 2, 100.0 + step)
        log.note_weights(step + 1, 0, "a", f"w{step}")
    log.append_plan(3, 0, 1)
    log.append_loss("b", 1, "gone")
    assert log.admit(b"nonce", "a", 1, 5)
    log.begin_term(0)
    log.close()


def test_a_damaged_audit_log_is_refused(tmp_path: Path) -> None:
    """Row 13: the scheduler's database. Bytes that belong to no row may change: then every row is what was written."""
    path = tmp_path / "audit.sqlite"
    write_log(path)

    def read() -> object:
        for suffix in ("-wal", "-shm"):  # of the damage before
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        steps = list(read_steps(path)), read_weight_digests(path), read_lost_peers(path)
        with contextlib.closing(AuditLog(path, "f" * 64, "{}")) as log:
            state = log.num_steps, log.keys, log.cursors, log.grad_norm, log.last_plan, log.steps_from(0, 9)
            return steps, state, log.admit(b"nonce", "stranger", 1, 0)

    refused = outcomes([path], read, read())
    assert refused > NUM_DAMAGES / 2  # all truncations, and flips wherever anything is written


def test_an_empty_audit_log_is_not_a_new_run(tmp_path: Path) -> None:
    """Row 13: the scheduler's database."""
    path = tmp_path / "audit.sqlite"
    write_log(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointCorrupt, match="it is empty"):
        AuditLog(path, "f" * 64, "{}")
    assert path.read_bytes() == b""


@pytest.mark.parametrize("name", ["admin.key", "scheduler.key", "identity.key"])
def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path, name: str) -> None:
    """Row 13: the keys of the admin, the scheduler and a peer."""
    path = tmp_path / name
    peer_id = Identity.load_or_create(path).peer_id
    assert outcomes([path], lambda: Identity.load_or_create(path).peer_id, peer_id) == NUM_DAMAGES


def test_a_damaged_plan_is_forgotten(tmp_path: Path) -> None:
    """Row 13: the plan file. A scheduler that knows no plan asks everybody."""
    plan = dataclasses.replace(plans.plan(["a"], ["b", "c"]), fingerprint=CONFIG.fingerprint)
    run_dir = RunDir(tmp_path)
    run_dir.plan.write_bytes(seal(Identity.generate(), plan))
    office: Any = SimpleNamespace(run_dir=run_dir, config=CONFIG)

    def remembered() -> object:
        ballot = Ballot()
        ballot.remember(office)
        return ballot.plan

    assert remembered() == plan
    for _ in damaged([run_dir.plan]):
        assert remembered() is None


# --- a peer's files --------------------------------------------------------------------------------------------------


def test_a_damaged_keepsake_is_fetched_again(tmp_path: Path) -> None:
    """Row 13: a peer's certificate, and the run's configuration beside it."""
    body = Certificate(fingerprint=CONFIG.fingerprint, peer_id="p", roles=("host",), expires_at_s=1e12)
    admission = Admission(seal(Identity.generate(), body), CONFIG, b"")
    keepsake = Keepsake(tmp_path)
    keepsake.keep(admission)
    assert keepsake.admission(CONFIG.fingerprint) == admission
    for file in damaged([tmp_path / "certificate", tmp_path / "run.json"]):
        found = keepsake.admission(CONFIG.fingerprint)
        assert found is None or (found == admission and file.name == "run.json")


def test_a_damaged_oath_is_refused(tmp_path: Path) -> None:
    """Row 13: whom a peer obeys. Another term here could give one term to two leaders."""
    oath = Oath(tmp_path / "leader.json")
    oath.allegiance.grant("a", 17)
    oath.save()
    path = tmp_path / "leader.json"
    assert outcomes([path], lambda: Oath(path).allegiance, Allegiance(17, "a")) == NUM_DAMAGES


def test_a_damaged_tokenised_shard_is_made_again(tmp_path: Path) -> None:
    """Row 13: the tokenised shard and its description."""
    source = tmp_path / "text.txt"
    source.write_text("It was a dark and stormy night. " * 20)

    def read() -> object:
        shard = Shard.open(CONFIG, source, tmp_path / "cache", ByteTokenizer())
        return shard.checksum, shard.train_tokens.tobytes(), shard.held_out_tokens.tobytes(), shard.skipped_files

    expected = read()
    assert outcomes(sorted((tmp_path / "cache").iterdir()), read, expected) == 0


SPAN: Span = (2, 6)


def write_journal(root: Path) -> Journal:
    journal = Journal(root, 1 << 20)
    for step in range(4):
        if step == 3:
            journal.put_snapshot(SPAN, 3, {"model-00002": b"weights" * 9}, RoundKey(1, 2))
        key = RoundKey(1, step)
        journal.put_average(SPAN, step, key, {"gradient-00002": b"gradient %d" % step}, record=b"ledger %d" % step)
        journal.commit(SPAN, step, key, float(step))
    return journal


def everything(journal: Journal) -> dict[tuple[object, ...], object]:
    """All that the journal vouches for, and still gives when asked."""
    found: dict[tuple[object, ...], object] = {}
    for kept in journal.kept():
        for step in range(kept.first, kept.last):
            with contextlib.suppress(CheckpointCorrupt, CheckpointMissing):
                found[kept.span, "average", step] = journal.average(kept.span, step)
            found[kept.span, "record", step] = journal.record(kept.span, step)
        with contextlib.suppress(CheckpointCorrupt, CheckpointMissing):
            found[kept.span, "snapshot"] = journal.snapshot(kept.span, at_most=kept.last)
    return found


def test_a_damaged_journal_gives_the_undamaged_part_only(tmp_path: Path) -> None:
    """Row 13: the journal. A damaged average, mark or snapshot is not used; the others are."""
    whole = write_journal(tmp_path / "journal")._root
    expected = everything(Journal(whole, 1 << 20))
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    lost = 0
    for file in damaged(files):
        shutil.rmtree(copy)
        shutil.copytree(whole, copy)
        found = everything(Journal(copy, 1 << 20))
        for what, value in found.items():
            if what[1] == "snapshot" and value != expected[what]:
                assert value == (0, {}), file  # the one before: what the seed gives
            elif what[1] == "average" and file.suffix == ".committed":
                average, original = value, expected[what]
                assert (average.parts, average.key) == (original.parts, original.key)  # type: ignore[attr-defined]
                assert average.grad_norm in (original.grad_norm, None)  # type: ignore[attr-defined]
            else:
                assert value == expected[what] or value == b"", file
        lost += found != expected
    assert lost == NUM_DAMAGES
