"""What plans make of this peer: a trunk stage to host, a shard's window to drive, both, or a place to stand by."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from peers.cursor import CursorFile
from peers.host import MAX_WAITING, Host
from peers.loading import Loading
from peers.member import GroupMember
from peers.owner import Owner
from peers.replica import Replica
from peers.workplace import Workplace
from swarm.data.shards import Shard
from swarm.errors import RunError, SwarmError
from swarm.model.spans import ENDS, LayerSpan, Span
from swarm.net.channel import Delivery
from swarm.plan import Plan
from swarm.tasks import TaskSet
from swarm.training.compute import Priority
from swarm.training.stage import EndsStage, TrunkStage
from swarm.wire.messages import (
    Activation,
    BoundaryGradient,
    CancelGroup,
    CannotContinue,
    CloseStep,
    CommitStep,
    FollowStep,
    GoRound,
    GrantLeases,
    HopFailed,
    PeersLost,
    PrepareGroup,
    ReopenStep,
    ReplayWork,
    StageReady,
)

_PLANS_AHEAD = 2
"""A neighbour's plan is newer than ours by so many at most: nobody closes a step without us."""


class Assignment:
    """This peer's groups under the current plan, and what it loads for the next one.

    Args:
        place: where all of it happens.
        shard: our private data; None for a peer that only hosts.
        cursor: where we are in it.
        say: shows people what happens.
    """

    def __init__(self, place: Workplace, shard: Shard | None, cursor: CursorFile, say: Callable[[str], None]) -> None:
        self.plan: Plan | None = None
        self._place = place
        self._shard = shard
        self._cursor = cursor
        self._say = say
        self._members: dict[Span, GroupMember] = {}
        self._loads: dict[Span, Loading] = {}
        self._host: Host | None = None
        self._owner: Owner | None = None
        self._early: list[Delivery] = []
        self._tasks = TaskSet()

    # --- plans -----------------------------------------------------------------------------------------------------

    async def adopt(self, plan: Plan) -> None:
        """This plan holds from its first step on: leave groups, keep them, or begin with new ones.

        Raises:
            RunError: the plan makes us an owner without a shard.
        """
        spans = plan.spans_of(self._place.peer_id)
        if self.plan is None and not spans:
            self._say("standing by: the plan has no stage for this peer")
        for span in set(self._members) - spans:
            await self._leave(span)
        for span, member in self._members.items():
            group = plan.group_of(span)
            assert group is not None
            member.replica.adopt(plan.number, group)
        for part in (self._host, self._owner):
            if part is not None:
                part.adopt(plan)
        for span in sorted(spans - set(self._members)):
            await self._begin(plan, span)
        for loading in self._loads.values():  # for a plan that is here now, or never comes
            await loading.close()
        self._loads.clear()
        self.plan = plan  # frames of it had to wait until here
        early, self._early = self._early, []
        for delivery in early:
            self.take(delivery)

    async def start_over(self) -> None:
        """Forget everything: another leader begins, at a step of its own."""
        for span in list(self._members):
            await self._leave(span)
        for loading in self._loads.values():
            await loading.close()
        self._loads.clear()
        for delivery in self._early:
            delivery.release()
        self._early.clear()
        self._place.shelf.clear()
        self.plan = None

    async def _begin(self, plan: Plan, span: Span) -> None:
        group = plan.group_of(span)
        assert group is not None
        if plan.first_step == 0:
            self._say("building the layers of this peer's stage")
            stage = await self._place.compute.run(Priority.STEP, self._build, span)
        else:
            try:
                stage = await self._loaded(span, plan.first_step)
            except SwarmError as error:
                problem = f"it could not load {_in_words(span)}: {error.problem}"
                self._place.report(CannotContinue(step=plan.first_step, stage=group, diverged=False, problem=problem))
                return
        replica = Replica(group, plan.number, plan.first_step)
        member = GroupMember(replica, stage, span, self._place, partial(self._on_step, span))
        self._members[span] = member
        if isinstance(stage, TrunkStage):
            self._host = Host(self._place, plan, member, stage, self._tell_owner)
        else:
            if self._shard is None:
                raise RunError("the plan makes this peer an owner without a shard", "join again with --data PATH")
            cursor = self._cursor.load() if plan.first_step == 0 else self._loads[span].next_cursor
            self._owner = Owner(self._place, plan, self._shard, cursor, member, stage)
        if plan.first_step == 0:
            digest = await self._place.compute.run(Priority.STEP, stage.digest)
            self._place.report(StageReady(plan=plan.number, stage=group, step=plan.first_step, digest=digest))

    def _build(self, span: Span) -> TrunkStage | EndsStage:
        place = self._place
        if span == ENDS:
            return EndsStage(place.config, place.device)
        return TrunkStage(place.config, place.device, LayerSpan(*span), place.keep_bytes)

    async def _loaded(self, span: Span, num_steps: int) -> TrunkStage | EndsStage:
        loading = self._loads.get(span)
        if loading is None:
            raise RunError("the leader never asked for it", "report this as a bug")
        return await loading.reached(num_steps)

    async def _leave(self, span: Span) -> None:
        self._members.pop(span).close()
        if span == ENDS and self._owner is not None:
            await self._owner.close()
            self._owner = None
        elif span != ENDS and self._host is not None:
            await self._host.close()
            self._host = None

    # --- orders ----------------------------------------------------------------------------------------------------

    async def handle(self, order: object) -> None:
        """Carry out one order of the leader."""
        if isinstance(order, CloseStep | GoRound | ReopenStep | CommitStep):
            member = next((each for each in self._members.values() if each.replica.stage == order.stage), None)
            if member is not None:
                await member.handle(order)
            if self._owner is not None and member is self._members.get(ENDS):
                self._owner.pump()
        elif isinstance(order, GrantLeases | ReplayWork | PeersLost):
            if self._owner is not None:
                self._owner.handle(order)
        elif isinstance(order, PrepareGroup):
            await self._prepare(order)
        elif isinstance(order, FollowStep | CancelGroup):
            for span, loading in list(self._loads.items()):
                if loading.transfer != order.transfer:
                    continue
                if isinstance(order, FollowStep):
                    loading.follow(order)
                else:
                    await self._loads.pop(span).close()

    async def _prepare(self, order: PrepareGroup) -> None:
        span = (order.first_layer, order.last_layer)
        old = self._loads.get(span)
        if old is not None:
            if old.transfer >= order.transfer:
                return
            await old.close()
        self._say(f"loading {_in_words(span)} from {len(order.donors)} members")
        self._loads[span] = Loading(order, self._place)

    def _on_step(self, span: Span) -> None:
        if span == ENDS:
            assert self._owner is not None
            self._owner.committed()
            self._cursor.save(self._owner.window.next_cursor)
        elif self._host is not None:
            self._host.wake()

    # --- other peers -----------------------------------------------------------------------------------------------

    def take(self, delivery: Delivery) -> None:
        """A boundary tensor arrived: for our stage, or home."""
        frame = delivery.message
        assert isinstance(frame, Activation | BoundaryGradient)
        if frame.plan > self._plan_number:  # our neighbours have the next plan already
            is_next = self.plan is None or frame.plan <= self._plan_number + _PLANS_AHEAD
            for_us = frame.receiver == self._place.peer_id and frame.sender == delivery.remote_id
            if is_next and for_us and len(self._early) < MAX_WAITING:
                self._early.append(delivery)
            else:
                delivery.release()
            return
        is_home = not 0 <= frame.stage < len(frame.route)
        if is_home and self._owner is not None:
            self._owner.take(delivery)
        elif not is_home and self._host is not None:
            self._host.take(delivery)
        else:
            delivery.release()

    @property
    def _plan_number(self) -> int:
        return 0 if self.plan is None else self.plan.number

    def hop_failed(self, report: HopFailed, remote_id: str) -> None:
        """A host of one of our microbatches cannot pass it on."""
        if self._owner is None or self.plan is None:
            return
        if remote_id in {peer for group in self.plan.groups for peer in group}:
            self._owner.hop_failed(report)

    def _tell_owner(self, owner: str, report: HopFailed) -> None:
        self._tasks.start(self._try_to_tell(owner, report))

    async def _try_to_tell(self, owner: str, report: HopFailed) -> None:
        try:
            await self._place.endpoint.request(owner, report)
        except SwarmError:
            return  # an owner that is gone needs no repair; one that lives notices that the microbatch is overdue

    # --- people ----------------------------------------------------------------------------------------------------

    @property
    def computed_tokens(self) -> int:
        """Tokens whose gradients this peer counted or brought home."""
        total = 0 if self._host is None else self._host.computed_tokens
        return total + (0 if self._owner is None else self._owner.computed_tokens)

    @property
    def layer_s(self) -> float:
        """Forward and backward of one layer for one microbatch, while training; 0 where there was none."""
        return 0.0 if self._host is None else self._host.layer_s

    @property
    def waiting_for(self) -> str:
        """In a person's words."""
        if not self._members:
            return "its layers' state" if self._loads else "a plan that needs this peer"
        if self._owner is not None and self._owner.window.num_in_flight:
            return f"{self._owner.window.num_in_flight} microbatches to come home"
        states = {member.replica.state.value for member in self._members.values()}
        if states == {"open"}:
            return "activations and gradients" if self._host is not None else "leases"
        return "the other replicas" if "reducing" in states else "the leader"

    @property
    def status(self) -> str:
        """One line for people."""
        parts = []
        for span, member in self._members.items():
            name = "data owner" if span == ENDS else f"stage {member.replica.stage} ({_in_words(span)})"
            parts += [name, f"step {member.replica.step}"]
        if not parts:
            parts = ["no stage yet"]
        for span, loading in self._loads.items():
            parts.append(f"loads {_in_words(span)} (step {loading.num_steps})")
        return " · ".join([*parts, f"{self.computed_tokens:,} tokens", f"waits for {self.waiting_for}"])

    async def close(self) -> None:
        """Stop everything that runs."""
        for span in list(self._members):
            await self._leave(span)
        for loading in self._loads.values():
            await loading.close()
        await self._cursor.close()
        await self._tasks.close()


def _in_words(span: Span) -> str:
    if span == ENDS:
        return "the ends"
    first, last = span[0], span[1] - 1
    return f"layer {first}" if first == last else f"layers {first}-{last}"
