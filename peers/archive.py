"""The journal off the event loop: one thread reads and writes it, in order, and a disk that refuses stops only it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from peers.journal import MAX_AVERAGES, Journal, Kept
from peers.records import Records
from swarm.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from swarm.model.spans import Span
from swarm.training.checkpoint import read_parts
from swarm.training.stage import Stage
from swarm.wire.messages import Holding, RecordFound, RoundKey

T = TypeVar("T")
S = TypeVar("S", bound=Stage)

NO_ROUND = RoundKey(0, 0)
_NORM = struct.Struct("<d")
_PATIENT_STEPS = MAX_AVERAGES // 2
"""After a snapshot that may not have been written, before the next one."""
_SPARE_SHARE = 0.5
"""Of the disk's budget: when so much is taken, groups that we do not serve get no more."""
_MAX_DAMAGED = 8
"""Files that may turn out damaged before the disk is not asked any more."""


class Archive:
    """What this peer could bring back after everything was killed.

    Args:
        journal: on its disk.
        records: the same.
        say: tells people when the disk refuses.
    """

    def __init__(self, journal: Journal, records: Records, say: Callable[[str], None]) -> None:
        self._journal = journal
        self._records = records
        self._notes: dict[Span, tuple[int, RoundKey, bytes]] = {}
        self._say = say
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._newest: dict[Span, tuple[int, int]] = {}

    # --- while training --------------------------------------------------------------------------------------------

    def begins(self, span: Span, num_steps: int) -> bool:
        """A group goes on from a state here; whether a snapshot of it has to come first."""
        _, newest = self._newest.get(span, (0, 0))
        return newest != num_steps

    def snapshot(
        self, span: Span, num_steps: int, key: RoundKey, parts: Mapping[str, bytes], *, is_spare: bool = False
    ) -> None:
        """Keep a committed state, in the background.

        Args:
            is_spare: of a group that we do not serve: it gives way to what we do.
        """
        self._newest[span] = num_steps, num_steps
        self._start(self._spare if is_spare else self._snapshot, span, num_steps, key, parts)

    def _spare(self, span: Span, num_steps: int, key: RoundKey, parts: Mapping[str, bytes]) -> None:
        with contextlib.suppress(CheckpointError):
            self._journal.put_snapshot(span, num_steps, parts, key, budget_share=_SPARE_SHARE)

    def _snapshot(self, span: Span, num_steps: int, key: RoundKey, parts: Mapping[str, bytes]) -> None:
        try:
            self._journal.put_snapshot(span, num_steps, parts, key)
        except CheckpointError:
            self._journal.clear()  # a newer state is worth more than older ones that leave no room for it
            self._journal.put_snapshot(span, num_steps, parts, key)

    async def averaged(
        self,
        span: Span,
        step: int,
        key: RoundKey,
        parts: Mapping[str, bytes],
        square_norm: float,
        record: bytes,
        *,
        is_spare: bool = False,
    ) -> None:
        """Keep an average before anybody hears that we hold it.

        Args:
            square_norm: of the average.
            record: the step's ledger; empty where others keep it.
            is_spare: as in `snapshot`.
        """
        note = _NORM.pack(square_norm) + record
        self._notes[span] = step, key, record
        share = _SPARE_SHARE if is_spare else 1.0
        if await self._try(self._leads_somewhere, span, step, key, parts, note, share) is False:
            base, newest = self._newest.get(span, (0, 0))
            if step - base >= _PATIENT_STEPS:
                self._newest[span] = newest - MAX_AVERAGES, newest  # a snapshot is due

    def _leads_somewhere(
        self, span: Span, step: int, key: RoundKey, parts: Mapping[str, bytes], note: bytes, share: float
    ) -> bool:
        """Put an average; False where its beginning is not on the disk: it could not be written, or lagged too far."""
        try:
            self._journal.put_average(span, step, key, parts, note, budget_share=share)
        except CheckpointMissing:
            return False
        except CheckpointError:
            if share == 1.0:
                raise
        return True

    def committed(self, span: Span, step: int, key: RoundKey, grad_norm: float) -> None:
        """That average was applied; in the background."""
        base, newest = self._newest.get(span, (0, 0))
        kept_step, kept_key, record = self._notes.pop(span, (-1, NO_ROUND, b""))
        if record and (kept_step, kept_key) == (step, key):
            self._start(self._records.put, step, key, grad_norm, record)
        if newest == step:
            self._newest[span] = base, step + 1
            self._start(self._journal.commit, span, step, key, grad_norm)

    def wants_snapshot(self, span: Span) -> bool:
        """Whether a restart would have to apply many averages."""
        base, newest = self._newest.get(span, (0, 0))
        return newest - base >= MAX_AVERAGES

    # --- after a leader is gone ------------------------------------------------------------------------------------

    async def holdings(self) -> tuple[Holding, ...]:
        """What can be brought back."""
        return await self._try(self._holdings) or ()

    def _holdings(self) -> tuple[Holding, ...]:
        for _ in range(_MAX_DAMAGED):
            try:
                return tuple(self._holding(kept) for kept in self._journal.kept())
            except CheckpointCorrupt:
                continue  # the journal has put aside what was damaged
        return ()

    def _holding(self, kept: Kept) -> Holding:
        first_layer, last_layer = kept.span
        square_norm = 0.0
        if kept.last > kept.committed:
            (square_norm,) = _NORM.unpack_from(self._journal.record(kept.span, kept.last - 1))
        return Holding(
            first_layer=first_layer,
            last_layer=last_layer,
            first_steps=kept.first,
            committed_steps=kept.committed,
            last_steps=kept.last,
            committed_key=kept.committed_key,
            last_key=kept.key,
            grad_norm=kept.grad_norm,
            square_norm=square_norm,
        )

    async def record(self, step: int) -> tuple[RecordFound, bytes]:
        """The ledger of a step as it was kept with its average; empty where there is none."""
        return await self._try(self._record, step) or (RecordFound(key=NO_ROUND, grad_norm=0.0), b"")

    def _record(self, step: int) -> tuple[RecordFound, bytes] | None:
        committed = self._records.get(step)
        if committed is not None:
            key, grad_norm, record = committed
            return RecordFound(key=key, grad_norm=grad_norm), record
        for kept in self._journal.kept():  # of a round whose commit we have not heard of
            record = self._journal.record(kept.span, step)[_NORM.size :]
            if record:
                return RecordFound(key=self._journal.key(kept.span, step), grad_norm=0.0), record
        return None

    async def rewind(self, num_steps: int) -> None:
        """The history goes on from this state."""
        await self._try(self._records.rewind, num_steps)
        await self._try(self._journal.rewind, num_steps)
        kept = await self._try(self._journal.kept) or []
        self._newest = {each.span: (each.base, each.last) for each in kept}

    async def clear(self) -> None:
        """The history went on without us."""
        self._newest.clear()
        await self._try(self._records.rewind, 0)
        await self._try(self._journal.clear)

    async def rebuild(self, span: Span, num_steps: int, grad_norm: float, build: Callable[[], S]) -> S | None:
        """Make a stage anew from the disk.

        Args:
            span: that it holds.
            num_steps: of the state wanted.
            grad_norm: of the last of these steps, if its commit is not on the disk.
            build: makes the stage with the seed's weights.

        Returns:
            The stage; None where the disk does not hold all of that state.
        """
        return await self._try(self._rebuild, span, num_steps, grad_norm, build)

    def _rebuild(self, span: Span, num_steps: int, grad_norm: float, build: Callable[[], S]) -> S | None:
        for _ in range(_MAX_DAMAGED):
            kept = next((each for each in self._journal.kept() if each.span == span), None)
            if kept is None or not kept.first <= num_steps <= kept.last:
                return None
            try:
                return self._replayed(span, num_steps, grad_norm, build)
            except CheckpointCorrupt:
                continue  # the journal has put aside what was damaged
            except CheckpointMissing:
                return None
        return None

    def _replayed(self, span: Span, num_steps: int, grad_norm: float, build: Callable[[], S]) -> S:
        base, parts = self._journal.snapshot(span, num_steps)
        stage = build()
        if parts:
            stage.load(read_parts(parts, "model"), read_parts(parts, "optimizer"))
        for step in range(base, num_steps):
            average = self._journal.average(span, step)
            norm = average.grad_norm
            if norm is None:
                if step + 1 < num_steps or not grad_norm:
                    raise CheckpointMissing(f"nobody knows whether step {step} was committed", "fetch it from others")
                norm = grad_norm
                self._journal.commit(span, step, average.key, norm)
            stage.apply(step, stage.in_order(read_parts(average.parts, "gradient")), norm)
        return stage

    # --- the thread ------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.to_thread(self._thread.shutdown)

    def _start(self, function: Callable[..., T], *arguments: object) -> None:
        # An error that nobody foresaw is told by the loop: nobody waits for this.
        asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, function, *arguments)

    async def _try(self, function: Callable[..., T], *arguments: object) -> T | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, function, *arguments)

    def _guarded(self, function: Callable[..., T], *arguments: object) -> T | None:
        try:
            return function(*arguments)
        except CheckpointMissing:
            return None  # the mark of an average that is not there
        except CheckpointError as error:
            self._say(f"this peer's journal: {error}")
            return None
