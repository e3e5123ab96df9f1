"""Getting ready for another group while the present one goes on: its state is fetched, then every step is followed.

    FETCHING   the state after some step, from whoever keeps a copy
    FOLLOWING  the average of each step that was committed since, applied as the group applied it

Whoever applies the same averages to the same state holds the same weights, bit by bit. A shadow follows until it is
needed, and keeps what it follows on its disk: if its group is gone, that is where the run goes on from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from peers.archive import NO_ROUND
from peers.workplace import Workplace
from swarm.errors import CheckpointCorrupt, RunError, SwarmError
from swarm.limits import limit_of
from swarm.model.parts import Kind, parts_of
from swarm.model.spans import ENDS, LayerSpan, Span
from swarm.net.state import StateFetch
from swarm.plan import Plan
from swarm.training.checkpoint import read_parts
from swarm.training.compute import Priority
from swarm.training.stage import EndsStage, TrunkStage
from swarm.wire.digest import square_norm_of
from swarm.wire.messages import FollowStep, GroupLoaded, GroupNotLoaded, PrepareGroup, RoundKey

_PATIENCE_S = 60.0
"""Without a new part for so long, donors are given up."""
_ALL_GONE_S = 6.0
"""While no donor answers at all, they are given up sooner: a leader takes half as long to find out that one is dead."""
_FIRST_RETRY_S = 0.05
_MAX_RETRY_S = 2.0


class Loading:
    """One group's state on its way to this peer.

    Args:
        order: what to load, and from whom.
        place: where it happens.
        stage: where this peer holds that very state already.
        grad_norm: of the whole model in the last step before that state, where our disk may not know it.
        is_shadow: the plan that holds has us keep this state beside our own.
    """

    def __init__(
        self,
        order: PrepareGroup,
        place: Workplace,
        stage: TrunkStage | EndsStage | None = None,
        grad_norm: float = 0.0,
        *,
        is_shadow: bool = False,
    ) -> None:
        self.transfer = order.transfer
        self.span: Span = (order.first_layer, order.last_layer)
        self.next_cursor = order.next_cursor
        self.is_shadow = is_shadow
        self._order = order
        self._donors = order.donors
        self._place = place
        self._followed: dict[int, FollowStep] = {}
        self._changed = asyncio.Event()
        self._stage = stage
        self._grad_norm = grad_norm
        self._key = NO_ROUND
        """Of the round that led to what we hold, as far as it is known."""
        self.num_steps = 0
        self._problem: SwarmError | None = None
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    def follow(self, order: FollowStep) -> None:
        """A step was committed."""
        self._followed[order.step] = order
        self._changed.set()

    def adopt(self, plan: Plan) -> None:
        """Another plan holds: others have what we need, too."""
        self._donors = plan.donors_after(self.span, self._donors)
        self.is_shadow = (self._place.peer_id, self.span) in plan.shadows

    async def reached(self, num_steps: int) -> TrunkStage | EndsStage:
        """The stage, as soon as it has seen so many steps.

        Raises:
            SwarmError: it never will.
        """
        while self._stage is None or self.num_steps < num_steps:
            if self._problem is not None:
                raise self._problem
            self._changed.clear()
            await self._changed.wait()
        if self.num_steps != num_steps:
            raise RunError(f"it was led on to step {self.num_steps}, not {num_steps}", "report this as a bug")
        return self._stage

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Whoever waits hears of an error that nobody foresaw, too."""
        if not task.cancelled() and (error := task.exception()) is not None and self._problem is None:
            self._give_up(limit_of(error) or RunError(f"loading failed ({error!r})", "report this as a bug"))

    def _give_up(self, error: SwarmError) -> None:
        self._problem = error
        self._changed.set()
        first_layer, last_layer = self.span
        self._place.report(
            GroupNotLoaded(
                transfer=self.transfer, first_layer=first_layer, last_layer=last_layer, problem=error.problem
            )
        )

    async def close(self) -> None:
        """Forget it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            num_steps = self._order.num_steps
            self._stage = await self._bring(num_steps)
            await self._arrived(num_steps)
            while True:
                step = self.num_steps
                while step not in self._followed:
                    self._changed.clear()
                    await self._changed.wait()
                await self._follow(self._followed.pop(step))
        except SwarmError as error:
            self._give_up(error)

    async def _bring(self, num_steps: int) -> TrunkStage | EndsStage:
        """The state that was asked for, from the nearest place that has it."""
        if self._stage is not None:
            return self._stage
        if num_steps == 0:
            return await asyncio.to_thread(self._build)
        kept = await self._place.archive.rebuild(self.span, num_steps, self._grad_norm, self._build)
        return kept or await self._from_donors(num_steps)

    async def _from_donors(self, num_steps: int) -> TrunkStage | EndsStage:
        # Off the compute thread: drawing initial weights takes seconds, and nobody else sees this stage yet.
        building = asyncio.to_thread(self._build)
        parts, stage = await asyncio.gather(
            self._fetch(num_steps, self._names("model"), self._names("optimizer")), building
        )
        await asyncio.to_thread(lambda: stage.load(read_parts(parts, "model"), read_parts(parts, "optimizer")))
        return stage

    def _build(self) -> TrunkStage | EndsStage:
        if self.span == ENDS:
            return EndsStage(self._place.config, self._place.device, self._place.keep_bytes)
        return TrunkStage(self._place.config, self._place.device, LayerSpan(*self.span), self._place.keep_bytes)

    async def _follow(self, done: FollowStep) -> None:
        assert self._stage is not None
        parts = await self._fetch(done.step + 1, self._names("gradient"), [])
        average = self._stage.in_order(read_parts(parts, "gradient"))
        if self.is_shadow:
            await self._keep(done, parts, await asyncio.to_thread(square_norm_of, average))
        # A shadow's steps wait their turn; those of a mover may be what its group waits for.
        priority = Priority.FORWARD if self.is_shadow else Priority.STEP
        await self._place.compute.run(priority, self._stage.apply, done.step, average, done.grad_norm)
        await self._arrived(done.step + 1)

    async def _keep(self, done: FollowStep, parts: Mapping[str, bytes], square_norm: float) -> None:
        """On our disk, before we say that we have it."""
        archive, key = self._place.archive, RoundKey(done.term, done.round)
        if archive.begins(self.span, done.step) or archive.wants_snapshot(self.span):
            assert self._stage is not None
            copy = await self._place.compute.run(Priority.FORWARD, self._stage.snapshot)
            archive.snapshot(self.span, done.step, self._key, copy, is_spare=True)
        await archive.averaged(self.span, done.step, key, parts, square_norm, b"", is_spare=True)
        archive.committed(self.span, done.step, key, done.grad_norm)
        self._key = key

    async def _arrived(self, num_steps: int) -> None:
        assert self._stage is not None
        digest = await asyncio.to_thread(self._stage.digest)
        self.num_steps = num_steps
        self._changed.set()
        first_layer, last_layer = self.span
        self._place.report(
            GroupLoaded(
                transfer=self.transfer,
                first_layer=first_layer,
                last_layer=last_layer,
                num_steps=num_steps,
                digest=digest,
            )
        )

    async def _fetch(self, num_steps: int, required: list[str], optional: list[str]) -> dict[str, bytes]:
        """Donors may not have applied the step yet, or may be gone: ask again while anything comes."""
        fetch = StateFetch(self._place.endpoint, num_steps, required, self._place.layout.most_part_bytes, optional)
        num_parts, since_s, pause_s = 0, time.monotonic(), _FIRST_RETRY_S
        answered_s = since_s
        while True:
            own = self._place.shelf.parts(self.span == ENDS, num_steps)
            fetch.parts |= {name: own[name] for name in (*required, *optional) if name in own}
            try:
                return await fetch.run([peer for peer in self._donors if peer != self._place.peer_id])
            except CheckpointCorrupt:
                raise
            except SwarmError:
                now_s = time.monotonic()
                if fetch.answers:
                    answered_s = now_s
                if len(fetch.parts) > num_parts:
                    num_parts, since_s, pause_s = len(fetch.parts), now_s, _FIRST_RETRY_S
                elif now_s - since_s > _PATIENCE_S or now_s - answered_s > _ALL_GONE_S:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(_MAX_RETRY_S, 2 * pause_s)

    def _names(self, kind: Kind) -> list[str]:
        return parts_of(kind, self.span, self._place.layout.trunk, self._place.layout.num_layers)
