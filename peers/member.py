"""The shell around one replica's part in a step: closes, reduces, commits, as the leader orders."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from peers.replica import Replica
from peers.workplace import Workplace
from swarm.errors import ReductionFailed, RoundBroken, SwarmError
from swarm.model.spans import Span
from swarm.net.allreduce import RoundPlan
from swarm.net.deadlines import Deadline
from swarm.plan import Plan
from swarm.training.compute import Priority
from swarm.training.stage import EndsStage, TrunkStage
from swarm.wire.digest import digest_of, square_norm_of
from swarm.wire.messages import (
    CannotContinue,
    CloseStep,
    CommitStep,
    GoRound,
    Lease,
    Regroup,
    ReopenStep,
    RoundFailed,
    RoundKey,
    RoundReduced,
    StepApplied,
    StepClosed,
)

StepOrder = CloseStep | GoRound | ReopenStep | CommitStep


@dataclass(frozen=True, slots=True)
class _Average:
    """What a round yielded, until it is committed or given up."""

    key: RoundKey
    tensors: list[Tensor]
    files: Mapping[str, bytes]


class GroupMember:
    """One replica: its books, its tensors, and its rounds.

    Args:
        replica: decides.
        stage: holds the tensors.
        span: what the group holds.
        place: where it happens.
        on_step: called after every committed step.
    """

    def __init__(
        self,
        replica: Replica,
        stage: TrunkStage | EndsStage,
        span: Span,
        place: Workplace,
        on_step: Callable[[], None],
    ) -> None:
        self.replica = replica
        self.stage = stage
        self._span = span
        self._shelf = place.shelf
        self._archive = place.archive
        self._compute = place.compute
        self._rounds = place.rounds
        self._peer_id = place.peer_id
        self._fingerprint = place.config.fingerprint
        self._codec = place.config.numerics.gradient_codec
        self._report = place.report
        self._on_step = on_step
        self._counting: Counter[int] = Counter()
        self._settled = asyncio.Event()
        self._round_time = Deadline()
        self._prepared: bytes | None = None
        self._reducing: asyncio.Task[None] | None = None
        self._vouching: asyncio.Task[None] | None = None
        self._average: _Average | None = None
        self._record = b""

    def begin_count(self, step: int) -> None:
        """A microbatch of this step entered the books; its close waits until `end_count`."""
        self._counting[step] += 1

    async def end_count(self, step: int, *, whole: bool) -> None:
        """The microbatch is in the sums; or only a part of it may be, and the step is counted anew."""
        if not whole:
            self.replica.reset(step)
            await self._compute.run(Priority.STEP, self.stage.reset, step)
        self._counting[step] -= 1
        if not self._counting[step]:
            del self._counting[step]
            self._settled.set()

    def diverged(self, problem: str) -> None:
        """Tell the leader that values are not finite: no replay would mend that."""
        replica = self.replica
        report = CannotContinue(step=replica.step, stage=replica.stage, diverged=True, problem=problem)
        self._report(report)

    async def handle(self, order: StepOrder) -> None:
        """Carry out one order; orders come one at a time."""
        if isinstance(order, CloseStep):
            await self._close(order)
        elif isinstance(order, GoRound):
            if self.replica.go(order):
                self._reducing = asyncio.create_task(self._reduce(order))
        elif isinstance(order, ReopenStep):
            if self.replica.reopen(order):
                self._drop_round()
        else:
            await self._commit(order)

    async def close(self) -> None:
        """Stop, in whatever state; what was committed is vouched for, and nobody uses the stage any more."""
        self._drop_round()
        await self._vouched()

    async def _close(self, order: CloseStep) -> None:
        while self._counting[order.step]:
            self._settled.clear()
            await self._settled.wait()
        closing = self.replica.close(order)
        if closing is None:
            return
        self._drop_round()
        missing = closing.missing
        if closing.retract and not await self._retract(order.step, closing.retract):
            missing = self.replica.start_over(order.counted)
        if not missing:
            try:
                await self._prepare(order)
            except ReductionFailed as error:
                self.diverged(error.problem)
                return
        self._report(StepClosed(step=order.step, stage=order.stage, round=order.round, missing=missing))

    async def _retract(self, step: int, leases: tuple[Lease, ...]) -> bool:
        stage, compute = self.stage, self._compute
        if isinstance(stage, TrunkStage) and await compute.run(Priority.STEP, stage.retract, step, leases):
            return True
        await compute.run(Priority.STEP, stage.reset, step)
        return False

    async def _prepare(self, order: CloseStep) -> None:
        own_tokens = order.tokens[order.members.index(self._peer_id)]
        gradient = await self._compute.run(Priority.STEP, self.stage.mean_gradient, order.step, own_tokens)
        round_id = f"{self._fingerprint}/{order.term}/{order.plan}/{order.step}/{order.stage}/{order.round}".encode()
        plan = RoundPlan(
            round_id=round_id,
            members=order.members,
            weights=tuple(float(tokens) for tokens in order.tokens),
            fractions=order.fractions,
            codec=self._codec,
            sender_timeout_s=self._round_time.seconds,
            reducer_timeout_s=2 * self._round_time.seconds,
        )
        self._rounds.prepare(plan, gradient)
        self._prepared = round_id
        self._record = order.record

    async def _reduce(self, order: GoRound) -> None:
        assert self._prepared is not None
        started_s = time.monotonic()
        try:
            averaged = await self._rounds.go(self._prepared)
            square_norm, files = await asyncio.to_thread(self._describe, averaged)
        except SwarmError as error:
            blamed = error.blamed if isinstance(error, RoundBroken) else ""
            about = {"step": order.step, "stage": order.stage, "round": order.round}
            self._report(RoundFailed(**about, problem=error.problem, blamed=blamed))
            return
        self._round_time.observe(time.monotonic() - started_s)
        self._prepared = None
        key = RoundKey(order.term, order.round)
        # Others may apply what we vouch for here, so it has to outlive us.
        _, digest = await asyncio.gather(
            self._archive.averaged(self._span, order.step, key, files, square_norm, self._record),
            asyncio.to_thread(digest_of, averaged),
        )
        if self.replica.reduced(order.round):
            self._average = _Average(key, averaged, files)
            self._report(
                RoundReduced(
                    step=order.step, stage=order.stage, round=order.round, digest=digest, square_norm=square_norm
                )
            )

    def _describe(self, averaged: list[Tensor]) -> tuple[float, Mapping[str, bytes]]:
        return square_norm_of(averaged), self.stage.gradient_files(averaged)

    def _drop_round(self) -> None:
        if self._reducing is not None:
            self._reducing.cancel()
            self._reducing = None
        if self._prepared is not None:
            self._rounds.abort(self._prepared)
            self._prepared = None
        self._average = None

    async def _commit(self, order: CommitStep) -> None:
        await self._vouched()  # before the next step's frames are let in: nothing may run between them and `apply`
        average, step = self._average, self.replica.step
        if average is None or not self.replica.commit(order):
            if order.step == step:  # an order that came twice is of an earlier step
                problem = "it has no average to apply"
                self._report(CannotContinue(step=order.step + 1, stage=order.stage, diverged=False, problem=problem))
            return
        self._average = None
        if order.averages_after >= 0:
            self._shelf.put_average(self._span, order.step + 1, average.files, order.averages_after)
        else:
            self._shelf.drop_averages(self._span)
        await self._apply(step, average, order.grad_norm)
        if order.snapshot or self._archive.wants_snapshot(self._span):
            copy = await self._compute.run(Priority.STEP, self.stage.snapshot)
            self._archive.snapshot(self._span, step + 1, average.key, copy)
            if order.snapshot:
                self._shelf.put_copy(self._span, step + 1, copy)
        self._vouching = asyncio.create_task(self._vouch(order))
        self._on_step()

    async def _apply(self, step: int, average: _Average, grad_norm: float) -> None:
        await self._compute.run(Priority.STEP, self.stage.apply, step, average.tensors, grad_norm)
        self._archive.committed(self._span, step, average.key, grad_norm)

    async def _vouched(self) -> None:
        """Nobody reads the weights any more."""
        if self._vouching is not None:
            await self._vouching

    async def _vouch(self, order: CommitStep) -> None:
        """Say what the weights are now; the next step's first microbatches are on their way meanwhile."""
        digest = await asyncio.to_thread(self.stage.digest)
        self._report(StepApplied(step=order.step, stage=order.stage, digest=digest))

    async def adopt(self, plan: Plan, group: int) -> None:
        """A newer plan holds, in which this is the number of our group; nothing is under way."""
        self.replica.adopt(plan.number, group)
        await self._compute.run(Priority.STEP, self.stage.align)

    async def regroup(self, order: Regroup) -> bool:
        """The run goes on from another state, under another leader: count nothing, and go there.

        Returns:
            Whether the stage is there; False where it has seen too many steps, or too few.
        """
        average, step = self._average, self.replica.step
        self._drop_round()
        await self._vouched()
        for each in range(step, step + self.replica.staleness + 1):
            await self._compute.run(Priority.STEP, self.stage.reset, each)
        if step == order.num_steps:
            return True
        if step + 1 == order.num_steps and average is not None and average.key == order.key:
            await self._apply(step, average, order.grad_norm)
            return True
        return False
