"""What plans make of this peer: a trunk stage to host, a shard's window to drive, both, or a place to stand by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from peers.archive import NO_ROUND
from peers.host import MAX_WAITING, Host
from peers.loading import Loading
from peers.member import GroupMember
from peers.owner import Owner
from peers.replica import Replica
from peers.self_view import Part, share_of
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
    Regroup,
    ReopenStep,
    ReplayWork,
    RoundKey,
    RunPaused,
    StartOver,
)

_PLANS_AHEAD = 2
"""A neighbour's plan is newer than ours by so many at most: nobody closes a step without us."""


class Assignment:
    """This peer's groups under the current plan, and what it loads for the next one.

    Args:
        place: where all of it happens.
        shard: our private data; None for a peer that only hosts.
        say: shows people what happens.
    """

    def __init__(self, place: Workplace, shard: Shard | None, say: Callable[[str], None]) -> None:
        self.plan: Plan | None = None
        self.newest_plan: Plan | None = None
        self._place = place
        self._shard = shard
        self._say = say
        self._members: dict[Span, GroupMember] = {}
        self._loads: dict[Span, Loading] = {}
        self._regrouped = Regroup(term=0, num_steps=0, key=RoundKey(0, 0), grad_norm=0.0, share=False)
        self._left: dict[Span, tuple[int, TrunkStage | EndsStage]] = {}
        """Stages of groups that we are not in any more, and the steps that they have seen."""
        self._host: Host | None = None
        self._owner: Owner | None = None
        self._early: list[Delivery] = []
        self._tasks = TaskSet()
        self._past_tokens = 0
        self.run_paused_by = ""
        """The scheduler that said so; another one's regrouping does not end the pause, a step does."""

    # --- plans -----------------------------------------------------------------------------------------------------

    async def adopt(self, plan: Plan) -> None:
        """This plan holds from its first step on: leave groups, keep them, or begin with new ones.

        Raises:
            RunError: the plan makes us an owner without a shard.
        """
        spans = plan.spans_of(self._place.peer_id)
        if self.plan is None and not spans:
            self._say("standing by: the plan has no stage for this peer")
        left = {span: (plan.first_step, await self._leave(span)) for span in set(self._members) - spans}
        for span, member in self._members.items():
            group = plan.group_of(span)
            assert group is not None
            await member.adopt(plan, group)
        for part in (self._host, self._owner):
            if part is not None:
                part.adopt(plan)
        for span in sorted(spans - set(self._members)):
            await self._begin(plan, span)
        await self._end_loads(spans)
        for loading in self._loads.values():
            loading.adopt(plan)
        self._left = {span: stage for span, stage in left.items() if (self._place.peer_id, span) in plan.shadows}
        self.plan = self.newest_plan = plan  # frames of it had to wait until here
        early, self._early = self._early, []
        for delivery in early:
            self.take(delivery)

    async def start_over(self) -> None:
        """Forget everything: the swarm went on without us."""
        await self.rest()
        await self._place.archive.clear()

    async def rest(self) -> None:
        """Leave every group, and whatever was under way; what is on the disk stays."""
        for span in list(self._members):
            await self._leave(span)
        await self._end_loads(set(self._loads))
        for delivery in self._early:
            delivery.release()
        self._early.clear()
        self._place.shelf.clear()
        self._left.clear()
        self.plan = None

    async def _end_loads(self, spans: Iterable[Span]) -> None:
        """Forget what was loaded of these; the leader says if that of others is needed no more."""
        for span in spans:
            loading = self._loads.pop(span, None)
            if loading is not None:
                await loading.close()

    async def _regroup(self, order: Regroup) -> None:
        """A leader begins: whatever was under way is void, and our groups go to the state it names."""
        members = dict(self._members)
        for part in (self._host, self._owner):  # before anything else is counted
            if part is not None:
                await part.close()
        there = {
            span: (order.num_steps, member.stage) for span, member in members.items() if await member.regroup(order)
        }
        await self.rest()
        self._left = there
        self._regrouped = order
        await self._place.archive.rewind(order.num_steps)
        if order.share:
            await self._share(order)

    async def _share(self, order: Regroup) -> None:
        """Copies of all that we can bring, for members that load."""
        place = self._place
        held = {(each.first_layer, each.last_layer) for each in await place.archive.holdings()}
        trunk: dict[str, bytes] = {}
        for span in sorted(held | set(self._left)):
            build = partial(self._build, span)
            _, stage = self._left.get(span, (0, None))
            stage = stage or await place.archive.rebuild(span, order.num_steps, order.grad_norm, build)
            if stage is None:
                continue
            parts = await place.compute.run(Priority.STEP, stage.snapshot)
            if span != ENDS:
                trunk |= parts  # also of a span that we left
            place.shelf.put_copy(span, order.num_steps, parts if span == ENDS else trunk)

    async def _begin(self, plan: Plan, span: Span) -> None:
        group = plan.group_of(span)
        assert group is not None
        try:
            stage = await self._loaded(span, plan.first_step)
        except SwarmError as error:
            problem = f"it could not load {_in_words(span)}: {error.problem}"
            self._place.report(CannotContinue(step=plan.first_step, stage=group, diverged=False, problem=problem))
            return
        await self._file(span, plan.first_step, stage)
        await self._place.compute.run(Priority.STEP, stage.align)
        replica = Replica(group, plan.number, plan.first_step, self._place.config.schedule.staleness)
        member = GroupMember(replica, stage, span, self._place, partial(self._on_step, span))
        self._members[span] = member
        if isinstance(stage, TrunkStage):
            self._host = Host(self._place, plan, member, stage, self._tell_owner)
        else:
            if self._shard is None:
                raise RunError("the plan makes this peer an owner without a shard", "join again with --data PATH")
            self._owner = Owner(self._place, plan, self._shard, self._loads[span].next_cursor, member, stage)

    async def _file(self, span: Span, num_steps: int, stage: TrunkStage | EndsStage) -> None:
        """The archive needs a state to begin with, unless it went on from its own."""
        archive = self._place.archive
        if archive.begins(span, num_steps):
            key = self._regrouped.key if num_steps == self._regrouped.num_steps else NO_ROUND
            archive.snapshot(span, num_steps, key, await self._place.compute.run(Priority.STEP, stage.snapshot))

    def _build(self, span: Span) -> TrunkStage | EndsStage:
        place = self._place
        if span == ENDS:
            return EndsStage(place.config, place.device, place.keep_bytes)
        return TrunkStage(place.config, place.device, LayerSpan(*span), place.keep_bytes)

    async def _loaded(self, span: Span, num_steps: int) -> TrunkStage | EndsStage:
        loading = self._loads.get(span)
        if loading is None:
            raise RunError("the leader never asked for it", "report this as a bug")
        return await loading.reached(num_steps)

    async def _leave(self, span: Span) -> TrunkStage | EndsStage:
        member = self._members.pop(span)
        await member.close()
        if span == ENDS and self._owner is not None:
            await self._owner.close()
            self._past_tokens += self._owner.computed_tokens
            self._owner = None
        elif span != ENDS and self._host is not None:
            await self._host.close()
            self._past_tokens += self._host.computed_tokens
            self._host = None
        return member.stage

    # --- orders ----------------------------------------------------------------------------------------------------

    async def handle(self, order: object, leader: str) -> None:
        """Carry out one order of the leader."""
        if isinstance(order, CloseStep | GrantLeases):
            self.run_paused_by = ""
        if isinstance(order, CloseStep | GoRound | ReopenStep | CommitStep):
            member = next((each for each in self._members.values() if each.replica.stage == order.stage), None)
            if member is not None:
                await member.handle(order)
            if member is self._members.get(ENDS):
                if self._owner is not None:
                    self._owner.pump()
            elif self._host is not None:
                self._host.wake()  # the step is over, or open again
        elif isinstance(order, GrantLeases | ReplayWork | PeersLost):
            if self._owner is not None:
                self._owner.handle(order)
        elif isinstance(order, PrepareGroup):
            await self._prepare(order)
        elif isinstance(order, Regroup):
            await self._regroup(order)
        elif isinstance(order, StartOver):
            await self.start_over()
        elif isinstance(order, RunPaused):
            self.run_paused_by = leader if order.paused else ""
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
        num_steps, stage = self._left.pop(span, (-1, None))
        is_shadow = self.plan is not None and (self._place.peer_id, span) in self.plan.shadows
        self._say(f"getting {'a copy of ' if is_shadow else ''}{_in_words(span)} ready")
        self._loads[span] = Loading(
            order,
            self._place,
            stage if num_steps == order.num_steps else None,
            self._regrouped.grad_norm if order.num_steps == self._regrouped.num_steps else 0.0,
            is_shadow=is_shadow,
        )

    def _on_step(self, span: Span) -> None:
        if span == ENDS:
            assert self._owner is not None
            self._owner.committed()

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
            self._owner.hop_failed(report, remote_id)

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
        """Tokens whose gradients this peer counted or brought home since its start, in whatever part."""
        total = self._past_tokens + (0 if self._host is None else self._host.computed_tokens)
        return total + (0 if self._owner is None else self._owner.computed_tokens)

    @property
    def layer_s(self) -> float:
        """Forward and backward of one layer for one microbatch, while training; 0 where there was none."""
        return 0.0 if self._host is None else self._host.layer_s

    @property
    def is_needed(self) -> bool:
        """Whether a group counts on us."""
        return bool(self._members)

    @property
    def waiting_for(self) -> str:
        """In a person's words."""
        if not self._members:
            loads = any(not loading.is_shadow for loading in self._loads.values())
            return "its layers' state" if loads else "a plan that needs this peer"
        if self._owner is not None and self._owner.window.num_in_flight:
            return f"{self._owner.window.num_in_flight} microbatches to come home"
        states = {member.replica.state.value for member in self._members.values()}
        if states == {"open"} and self.run_paused_by:
            return "the admin, who paused the run"
        if states == {"open"}:
            return "activations and gradients" if self._host is not None else "leases"
        return "the other replicas" if "reducing" in states else "the leader"

    @property
    def parts(self) -> list[Part]:
        """Our groups, for people."""
        peer, plan = self._place.peer_id, self.plan
        return [
            Part(
                _in_words(span),
                member.replica.step,
                None if plan is None else share_of(plan, member.replica.stage, peer),
            )
            for span, member in self._members.items()
        ]

    @property
    def beside(self) -> tuple[str, ...]:
        """What we load, or keep a copy of, beside our groups, for people."""
        return tuple(
            f"{'keeps a copy of' if loading.is_shadow else 'loads'} {_in_words(span)} (step {loading.num_steps})"
            for span, loading in self._loads.items()
        )

    @property
    def status(self) -> str:
        """One line for people."""
        parts = []
        for span, member in self._members.items():
            name = "data owner" if span == ENDS else f"stage {member.replica.stage} ({_in_words(span)})"
            parts += [name, f"step {member.replica.step}"]
        if not parts:
            parts = ["no stage yet"]
        parts += self.beside
        return " · ".join([*parts, f"{self.computed_tokens:,} tokens", f"waits for {self.waiting_for}"])

    async def close(self) -> None:
        """Stop everything that runs."""
        await self.rest()
        await self._tasks.close()


def _in_words(span: Span) -> str:
    if span == ENDS:
        return "the ends"
    first, last = span[0], span[1] - 1
    return f"layer {first}" if first == last else f"layers {first}-{last}"
