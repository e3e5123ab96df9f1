"""What a peer keeps on its own disk of its groups' state, so that a swarm that was killed goes on where it was.

A state is a snapshot, or the weights that the seed gives (0 steps), followed by one averaged gradient a step:

    journal/
        layers-00002-00006/         a group: decoder layers 2 to 5
            snapshot-00000016/      see `peers/journal_files.py`
            average-00000016.bin
            average-00000016.committed
        ends/                       the owners' group

What can be rebuilt is read from the disk each time, so a new process knows what the killed one knew. History before the
newest snapshot goes once two averages follow it: the others may be a step behind, and a swarm goes on from a state that
all its groups can rebuild.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from peers.journal_files import (
    Average,
    Facts,
    GroupFolder,
    encode_average,
    encode_snapshot,
    refusals,
    remove_at_once,
    remove_leftovers,
)
from swarm.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from swarm.model.spans import ENDS, Span
from swarm.wire.messages import RoundKey

__all__ = ["MAX_AVERAGES", "Average", "Journal", "Kept", "RoundKey"]

MAX_AVERAGES = 16
"""Averages after a snapshot that make it time for the next: what a restart may have to apply."""
_NO_ROUND = RoundKey(0, 0)
_LAG_STEPS = 2
"""How many steps before the newest state stay within reach."""
_GROUP = re.compile(r"layers-(\d{5,})-(\d{5,})")


@dataclass(frozen=True, slots=True)
class Kept:
    """What can be rebuilt of one group: every state from `first` to `last` steps."""

    span: Span
    first: int
    """The oldest number of steps that can be rebuilt."""
    last: int
    """The newest; `committed`, or one more."""
    committed: int
    """The newest that is known to be committed."""
    key: RoundKey
    """That led to `last`; RoundKey(0, 0) where that is 0, or a snapshot that was put without one."""
    committed_key: RoundKey
    """That led to `committed`, likewise."""
    grad_norm: float
    """Of the whole model's gradient in the last committed step; 0 where it is not known any more."""
    base: int
    """The newest snapshot's number of steps; 0 for the weights that the seed gives."""


class _History:
    """What follows from a folder's facts. Pure."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.newest_snapshot = max(facts.snapshots, default=0)
        """Its number of steps; 0 for the weights that the seed gives."""
        reachable = {0, *facts.snapshots}
        for step in sorted(facts.committed):
            if step in reachable:
                reachable.add(step + 1)
        self._reachable = reachable
        self.first = self.newest_snapshot
        while self.first - 1 in reachable:
            self.first -= 1
        self.committed = self.newest_snapshot
        while self.committed + 1 in reachable:
            self.committed += 1
        # An average whose fate is unknown ends what can be rebuilt: without the norm there is no going on from it.
        self.last = self.committed + (self.committed in facts.averages)

    @property
    def is_empty(self) -> bool:
        """Nothing that the seed alone would not give."""
        return not self._facts.snapshots and self.last == 0

    def key_of(self, step: int) -> RoundKey | None:
        """The round of a step's average; None where there is none."""
        return self._facts.averages.get(step)

    def newest_snapshot_until(self, num_steps: int) -> int | None:
        """Of how many steps it is; None for the weights that the seed gives."""
        return max((found for found in self._facts.snapshots if found <= num_steps), default=None)

    def kept(self, span: Span) -> Kept:
        """The range that can be rebuilt."""
        grad_norm = self._facts.committed.get(self.committed - 1, 0.0)
        key, committed_key = self._key_to(self.last), self._key_to(self.committed)
        return Kept(span, self.first, self.last, self.committed, key, committed_key, grad_norm, self.newest_snapshot)

    def until(self, num_steps: int) -> tuple[frozenset[int], frozenset[int]]:
        """The snapshots and averages that lead to a state, and to those before it."""
        snapshots = (found for found in self._facts.snapshots if found <= num_steps)
        return frozenset(snapshots), frozenset(step for step in self._facts.averages if step < num_steps)

    def worth_keeping(self) -> tuple[frozenset[int], frozenset[int]]:
        """The snapshots and averages that are not superfluous."""
        oldest = self.newest_snapshot
        if self.last < oldest + _LAG_STEPS:
            bases = {0, *self._facts.snapshots}
            oldest = max((base for base in bases if base <= oldest - _LAG_STEPS), default=0)
        snapshots = (found for found in self._facts.snapshots if found >= oldest)
        averages = (step for step in self._facts.averages if step >= oldest and step in self._reachable)
        return frozenset(snapshots), frozenset(averages)

    def _key_to(self, num_steps: int) -> RoundKey:
        if num_steps > self.newest_snapshot:
            return self._facts.averages[num_steps - 1]
        return self._facts.snapshots.get(num_steps, _NO_ROUND)


class Journal:
    """A peer's states on its own disk. Used from one thread at a time, and by one process.

    A snapshot or an average that turns out damaged when it is read is removed: whoever gets a CheckpointCorrupt asks
    `kept` again for what is left.

    Args:
        root: the folder; made if it is missing.
        budget_bytes: most that snapshots and averages may take, also while one replaces another. A commit's mark, of
            some two hundred bytes, is never refused. Two snapshots and `MAX_AVERAGES` + 3 averages a group are enough
            where every snapshot comes as soon as it is wanted.

    Raises:
        CheckpointError: the folder cannot be made or read.
    """

    def __init__(self, root: Path, budget_bytes: int) -> None:
        self._root = root
        self._budget_bytes = budget_bytes
        with refusals(f"use {root}"):
            root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root)

    def put_snapshot(
        self,
        span: Span,
        num_steps: int,
        parts: Mapping[str, bytes],
        key: RoundKey = _NO_ROUND,
        *,
        budget_share: float = 1.0,
    ) -> None:
        """Keep a committed state, and drop what it makes superfluous.

        Args:
            span: of the group, or `ENDS`.
            num_steps: optimizer steps that the state has seen; a snapshot of the same number is replaced.
            parts: by part name, safetensors files of model and optimizer.
            key: the round that led to the state, where it is known.
            budget_share: that may be taken, of the whole, with everything.

        Raises:
            CheckpointError: the budget or the disk is too small; what was kept before still is.
        """
        files = encode_snapshot(num_steps, key, parts)
        self._make_room(span, sum(map(len, files.values())), budget_share)
        self._group(span).write_snapshot(num_steps, files)
        self._prune(span)

    def put_average(
        self,
        span: Span,
        step: int,
        key: RoundKey,
        parts: Mapping[str, bytes],
        record: bytes = b"",
        *,
        budget_share: float = 1.0,
    ) -> None:
        """Keep an average that is not committed yet; that of another round, and all that came after it, give way.

        Args:
            span: of the group, or `ENDS`.
            step: the average leads from `step` to `step` + 1 steps. The same round's average is taken once.
            key: the round that it comes from.
            parts: by part name, safetensors files.
            record: what else is to be kept of the step, such as an owner's ledger; opaque.
            budget_share: as in `put_snapshot`.

        Raises:
            CheckpointMissing: nothing here leads to `step` steps, or not to a committed state; a snapshot has to come
                first.
            CheckpointError: the budget or the disk is too small; what was kept before still is.
        """
        group = self._group(span)
        history = _History(group.facts())
        if not history.first <= step <= history.committed:
            raise CheckpointMissing(
                f"the journal has committed states of {group.path.name} from {history.first} to {history.committed} "
                f"steps, so the average of step {step} leads nowhere",
                "put a snapshot first",
            )
        if history.key_of(step) == key:
            return
        pieces = encode_average(step, key, parts, record)
        self._make_room(span, sum(map(len, pieces)), budget_share)
        with group.writing_average(step, pieces):
            # All that followed goes before the new one is there: after it, old and new history would be mixed.
            group.retain(*history.until(step))
        self._prune(span)

    def commit(self, span: Span, step: int, key: RoundKey, grad_norm: float) -> None:
        """Note that a step's average was committed.

        Args:
            span: of the group, or `ENDS`.
            step: as in `put_average`.
            key: the round that was committed.
            grad_norm: of the whole model's gradient.

        Raises:
            CheckpointMissing: this round's average is not here.
            CheckpointError: the disk refuses.
        """
        group = self._group(span)
        if _History(group.facts()).key_of(step) != key:
            raise CheckpointMissing(
                f"the journal has no average of step {step}, {key} of {group.path.name}", "put a snapshot instead"
            )
        group.write_mark(step, key, grad_norm)

    def wants_snapshot(self, span: Span) -> bool:
        """Whether `MAX_AVERAGES` or more follow the newest snapshot; raises CheckpointError."""
        history = _History(self._group(span).facts())
        return history.last - history.newest_snapshot >= MAX_AVERAGES

    def kept(self) -> list[Kept]:
        """What can be rebuilt, by span in order, as far as sizes and seals tell; nothing for a group at 0 steps.

        Raises:
            CheckpointError: the disk refuses.
        """
        return sorted((history.kept(span) for span, history in self._histories()), key=lambda kept: kept.span)

    def snapshot(self, span: Span, at_most: int) -> tuple[int, dict[str, bytes]]:
        """The newest snapshot that is not beyond `at_most` steps.

        Returns:
            Its number of steps and its parts; (0, {}) for the weights that the seed gives.

        Raises:
            CheckpointCorrupt: it was damaged, and is removed.
            CheckpointError: the disk refuses.
        """
        group = self._group(span)
        num_steps = _History(group.facts()).newest_snapshot_until(at_most)
        if num_steps is None:
            return 0, {}
        try:
            return num_steps, group.snapshot(num_steps)
        except CheckpointCorrupt:
            facts = group.facts()
            group.retain(frozenset(facts.snapshots) - {num_steps}, frozenset(facts.averages))
            raise

    def average(self, span: Span, step: int) -> Average:
        """The average that leads from `step` to `step` + 1 steps.

        Raises:
            CheckpointCorrupt: it was damaged, and is removed.
            CheckpointMissing: there is none.
            CheckpointError: the disk refuses.
        """
        group = self._group(span)
        try:
            return group.average(step)
        except CheckpointCorrupt:
            self._drop_average(group, step)
            raise

    def key(self, span: Span, step: int) -> RoundKey:
        """The round of a step's average, as far as sizes and seals tell.

        Raises:
            CheckpointMissing: there is none.
            CheckpointError: the disk refuses.
        """
        key = _History(self._group(span).facts()).key_of(step)
        if key is None:
            raise CheckpointMissing(f"the journal has no average of step {step}", "fetch it from another replica")
        return key

    def record(self, span: Span, step: int) -> bytes:
        """The record that came with the average of a step; empty where there is none.

        Raises:
            CheckpointCorrupt: it was damaged, and is removed with its average.
            CheckpointError: the disk refuses.
        """
        group = self._group(span)
        try:
            return group.record(step)
        except CheckpointMissing:
            return b""
        except CheckpointCorrupt:
            self._drop_average(group, step)
            raise

    def rewind(self, num_steps: int) -> None:
        """Forget all that came after a state: the history goes on otherwise; raises CheckpointError."""
        for _, group in self._groups():
            group.retain(*_History(group.facts()).until(num_steps))
        self._prune(None)

    def clear(self) -> None:
        """Forget everything; raises CheckpointError."""
        for _, group in self._groups():
            remove_at_once(group.path)

    def _group(self, span: Span) -> GroupFolder:
        return GroupFolder(self._root / ("ends" if span == ENDS else f"layers-{span[0]:05d}-{span[1]:05d}"))

    def _groups(self) -> Iterator[tuple[Span, GroupFolder]]:
        with refusals(f"read {self._root}"):
            paths = sorted(self._root.iterdir())
        for path in paths:
            if path.name == "ends":
                yield ENDS, GroupFolder(path)
            elif layers := _GROUP.fullmatch(path.name):
                yield (int(layers[1]), int(layers[2])), GroupFolder(path)

    def _histories(self) -> list[tuple[Span, _History]]:
        histories = [(span, _History(group.facts())) for span, group in self._groups()]
        return [(span, history) for span, history in histories if not history.is_empty]

    def _drop_average(self, group: GroupFolder, step: int) -> None:
        facts = group.facts()
        group.retain(frozenset(facts.snapshots), frozenset(facts.averages) - {step})

    def _make_room(self, span: Span, num_bytes: int, share: float) -> None:
        self._prune(span)
        taken = sum(group.num_bytes for _, group in self._groups())
        if taken + num_bytes > share * self._budget_bytes:
            raise CheckpointError(
                f"{self._root} holds {taken} bytes, and {num_bytes} more are beyond its budget of {self._budget_bytes}",
                "raise the journal's budget",
            )

    def _prune(self, in_use: Span | None) -> None:
        """Remove what is superfluous, and groups that the peer has left; never the one that it writes to."""
        for _, group in self._groups():
            group.retain(*_History(group.facts()).worth_keeping())
        histories = dict(self._histories())
        newest = max(histories.values(), key=lambda history: (history.last, -history.first), default=None)
        for span, group in self._groups():
            history = histories.get(span)
            if span != in_use and (history is None or newest is None or history.last < newest.first):
                remove_at_once(group.path)
