"""The shell around one replica's part in a step: closes, reduces, commits, as the leader orders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from torch import Tensor

from peers.replica import Replica
from peers.workplace import Workplace
from swarm.errors import ReductionFailed, SwarmError
from swarm.model.spans import Span
from swarm.net.allreduce import RoundPlan
from swarm.net.deadlines import Deadline
from swarm.training.compute import Priority
from swarm.training.stage import EndsStage, TrunkStage
from swarm.wire.digest import digest_of, square_norm_of
from swarm.wire.messages import (
    CannotContinue,
    CloseStep,
    CommitStep,
    GoRound,
    Lease,
    ReopenStep,
    RoundFailed,
    RoundReduced,
    StepApplied,
    StepClosed,
)

StepOrder = CloseStep | GoRound | ReopenStep | CommitStep


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
        self._compute = place.compute
        self._rounds = place.rounds
        self._peer_id = place.peer_id
        self._fingerprint = place.config.fingerprint
        self._codec = place.config.numerics.gradient_codec
        self._report = place.report
        self._on_step = on_step
        self._counting = 0
        self._settled = asyncio.Event()
        self._round_time = Deadline()
        self._prepared: bytes | None = None
        self._reducing: asyncio.Task[None] | None = None
        self._averaged: list[Tensor] | None = None

    def begin_count(self) -> None:
        """A microbatch entered the books; the next close waits until `end_count`."""
        self._counting += 1

    async def end_count(self, *, whole: bool) -> None:
        """The microbatch is in the sums; or only a part of it may be, and everything is counted anew."""
        if not whole:
            self.replica.reset()
            await self._compute.run(Priority.STEP, self.stage.reset)
        self._counting -= 1
        if not self._counting:
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

    def close(self) -> None:
        """Stop, in whatever state."""
        self._drop_round()

    async def _close(self, order: CloseStep) -> None:
        while self._counting:
            self._settled.clear()
            await self._settled.wait()
        closing = self.replica.close(order)
        if closing is None:
            return
        self._drop_round()
        missing = closing.missing
        if closing.retract and not await self._retract(closing.retract):
            missing = self.replica.start_over(order.counted)
        if not missing:
            try:
                await self._prepare(order)
            except ReductionFailed as error:
                self.diverged(error.problem)
                return
        self._report(StepClosed(step=order.step, stage=order.stage, round=order.round, missing=missing))

    async def _retract(self, leases: tuple[Lease, ...]) -> bool:
        if isinstance(self.stage, TrunkStage) and await self._compute.run(Priority.STEP, self.stage.retract, leases):
            return True
        await self._compute.run(Priority.STEP, self.stage.reset)
        return False

    async def _prepare(self, order: CloseStep) -> None:
        own_tokens = order.tokens[order.members.index(self._peer_id)]
        gradient = await self._compute.run(Priority.STEP, self.stage.mean_gradient, own_tokens)
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

    async def _reduce(self, order: GoRound) -> None:
        assert self._prepared is not None
        started_s = time.monotonic()
        try:
            averaged = await self._rounds.go(self._prepared)
            digest = await asyncio.to_thread(digest_of, averaged)
            square_norm = await asyncio.to_thread(square_norm_of, averaged)
        except SwarmError as error:
            report = RoundFailed(step=order.step, stage=order.stage, round=order.round, problem=error.problem)
            self._report(report)
            return
        self._round_time.observe(time.monotonic() - started_s)
        self._prepared = None
        if self.replica.reduced(order.round):
            self._averaged = averaged
            self._report(
                RoundReduced(
                    step=order.step, stage=order.stage, round=order.round, digest=digest, square_norm=square_norm
                )
            )

    def _drop_round(self) -> None:
        if self._reducing is not None:
            self._reducing.cancel()
            self._reducing = None
        if self._prepared is not None:
            self._rounds.abort(self._prepared)
            self._prepared = None
        self._averaged = None

    async def _commit(self, order: CommitStep) -> None:
        averaged, step = self._averaged, self.replica.step
        if averaged is None or not self.replica.commit(order):
            if order.step == step:  # an order that came twice is of an earlier step
                problem = "it has no average to apply"
                self._report(CannotContinue(step=order.step + 1, stage=order.stage, diverged=False, problem=problem))
            return
        self._averaged = None
        if order.share_average:  # before it is applied, which may scale it in place
            files = await self._compute.run(Priority.STEP, self.stage.gradient_files, averaged)
            self._shelf.put_average(self._span, order.step + 1, files)
        else:
            self._shelf.drop_averages(self._span)
        digest = await self._compute.run(Priority.STEP, self.stage.apply, order.step, averaged, order.grad_norm)
        if order.snapshot:
            self._shelf.put_copy(
                self._span, order.step + 1, await self._compute.run(Priority.STEP, self.stage.snapshot)
            )
        self._report(StepApplied(step=order.step, stage=order.stage, digest=digest))
        self._on_step()
