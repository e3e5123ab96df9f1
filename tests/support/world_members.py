"""What the members of a modelled swarm do: the shells of production in a few lines, without tensors or clocks."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from peers.allegiance import Allegiance
from peers.replica import Replica, Verdict
from peers.window import Window
from scheduler.recovery import NO_ROUND
from scheduler.step import StepLeader
from swarm.model.spans import ENDS, Span
from swarm.plan import Plan
from swarm.wire.messages import (
    Activation,
    BoundaryGradient,
    BoundaryTensor,
    CancelGroup,
    CloseStep,
    CommitStep,
    FollowStep,
    GoRound,
    GrantLeases,
    GroupLoaded,
    GroupNotLoaded,
    Lease,
    MicrobatchDone,
    PeersLost,
    PrepareGroup,
    ReopenStep,
    ReplayWork,
    RoundFailed,
    RoundKey,
    RoundReduced,
    RunPaused,
    StepApplied,
    StepClosed,
    Work,
)

TOKENS = 8
T = TypeVar("T")

Average = frozenset[tuple[Lease, int]]
Contributions = dict[tuple[int, Lease], int]
"""Step and lease to cursor."""


@dataclass
class Load:
    """What a member loads for the plan to come, or keeps as a shadow."""

    order: PrepareGroup
    weights: list[Average] | None = None
    steps: set[int] = field(default_factory=set)  # committed since, as far as it has heard

    @property
    def span(self) -> Span:
        return self.order.first_layer, self.order.last_layer


@dataclass(frozen=True)
class Journaled:
    """An average on a member's disk: that of a round that was given up stays until another one replaces it."""

    step: int
    key: RoundKey
    average: Average
    record: bytes


@dataclass
class Member:
    """One process: a replica of one group if the plan has one for it, and a window if it is an owner."""

    name: str
    replica: Replica | None
    span: Span
    window: Window | None = None
    plan: int = 1
    first_step: int = 0  # of that plan
    waiting: list[object] = field(default_factory=list)
    contributions: Contributions = field(default_factory=dict)  # what the accumulators hold
    back_contributions: Contributions = field(default_factory=dict)  # of an owner: what its back's sums hold
    versions: list[int] = field(default_factory=lambda: [0, 0])  # of the weights that even and odd steps run on
    round_members: tuple[str, ...] = ()
    average: Average | None = None
    weights: list[Average] = field(default_factory=list)
    copies: dict[int, tuple[Span, list[Average]]] = field(default_factory=dict)
    shared: dict[int, tuple[Span, Average]] = field(default_factory=dict)
    loads: dict[Span, Load] = field(default_factory=dict)
    shadow: Span | None = None  # what the plan has it keep beside its own span
    left: dict[Span, list[Average]] = field(default_factory=dict)  # what it served under the plan before
    adopting: Plan | None = None  # until the load has caught up; orders wait
    allegiance: Allegiance = field(default_factory=lambda: Allegiance(1, "leader-1"))
    base: int = 0  # of the oldest state on its disk
    key: RoundKey = NO_ROUND  # of the round that led to its weights
    record: bytes = b""  # of the round it prepared
    journaled: Journaled | None = None
    records: dict[int, Journaled] = field(default_factory=dict)  # an owner's, by step
    brought: tuple[Span, list[Average]] | None = None  # from before the present term


class Members:
    """Members of a world, which carries their messages."""

    members: dict[str, Member]
    dead: set[str]
    accused: set[str]
    fired: Counter[str]
    leader: StepLeader
    random: random.Random
    queues: dict[tuple[str, str], deque[object]]
    rounds: dict[tuple[int, int, int, int], dict[str, dict[Lease, int]]]
    staleness: int
    cursors: dict[tuple[str, int, Lease], int]
    plan_numbers: dict[tuple[str, int], int]

    def send(self, sender: str, receiver: str, message: object) -> None:
        raise NotImplementedError

    def expendable(self) -> list[str]:
        raise NotImplementedError

    # --- plan changes ----------------------------------------------------------------------------------------------

    def on_prepare(self, member: Member, order: PrepareGroup) -> None:
        old = member.loads.get((order.first_layer, order.last_layer))
        if old is not None and old.order.transfer >= order.transfer:
            return
        load = member.loads[order.first_layer, order.last_layer] = Load(order)
        own = member.left.pop(load.span, None)
        if own is not None and len(own) == order.num_steps:
            self.fired["shadow of what it served"] += 1
            load.weights = own
            self.report_loaded(member, load)
        self.load_on(member, load.span)

    def load_on(self, member: Member, span: Span) -> None:
        self.queues.setdefault(("net", member.name), deque()).append(("load", span))

    def report_loaded(self, member: Member, load: Load) -> None:
        assert load.weights is not None
        report = GroupLoaded(
            transfer=load.order.transfer,
            first_layer=load.order.first_layer,
            last_layer=load.order.last_layer,
            num_steps=len(load.weights),
            digest=digest_of(load.weights),
        )
        self.send(member.name, member.allegiance.leader, report)

    def go_on_loading(self, member: Member, span: Span) -> None:
        """One piece of background work; more follows while there is something to do."""
        load = member.loads.get(span)
        if load is None:
            return
        if load.weights is None:
            found = self.donated(load, lambda donor: donor.copies.get(load.order.num_steps))
            if found is None:
                self.give_up(member, load)
                return
            load.weights = list(found)
        elif len(load.weights) in load.steps:
            step = len(load.weights)
            average = self.donated(load, lambda donor: donor.shared.get(step))
            if average is None:
                living = [self.members[name] for name in load.order.donors if name not in self.dead]
                if any(donor.replica is not None and donor.replica.step <= step for donor in living):
                    self.fired["asked before the donor had applied"] += 1
                    self.load_on(member, span)
                else:
                    self.give_up(member, load)
                return
            load.weights.append(average)
            self.fired["average followed by a shadow" if span == member.shadow else "average followed"] += 1
        else:
            return
        self.report_loaded(member, load)
        self.load_on(member, span)
        self.finish_adopting(member)

    def give_up(self, member: Member, load: Load) -> None:
        adopting = member.adopting
        assert adopting is None or load.span not in adopting.spans_of(member.name), (
            "the last donor died, which the schedule should not allow"
        )
        self.fired["no donor left"] += 1
        first, last = load.span
        report = GroupNotLoaded(transfer=load.order.transfer, first_layer=first, last_layer=last, problem="no donor")
        self.send(member.name, member.allegiance.leader, report)
        del member.loads[load.span]

    def donated(self, load: Load, kept: Callable[[Member], tuple[Span, T] | None]) -> T | None:
        """Something that the living donors keep, if they keep it for every layer of the span."""
        values = [
            found
            for name in load.order.donors
            if name not in self.dead and (found := kept(self.members[name])) is not None
        ]
        if load.span == ENDS:
            values = [found for found in values if found[0] == ENDS]
            return values[0][1] if values else None
        layers = {layer for span, _ in values for layer in range(*span)}
        return values[0][1] if layers >= set(range(*load.span)) else None

    def on_plan(self, member: Member, plan: Plan) -> None:
        if plan.number <= member.plan:
            return
        member.adopting = plan
        self.finish_adopting(member)

    def finish_adopting(self, member: Member) -> None:
        plan = member.adopting
        if plan is None:
            return
        spans = plan.spans_of(member.name)
        shadow = next((span for peer, span in plan.shadows if peer == member.name), None)
        left = {member.span: list(member.weights)} if member.replica is not None and member.span == shadow else {}
        if not spans:
            member.replica = member.window = None
            member.contributions.clear()
            member.back_contributions.clear()
        elif member.replica is None or member.span not in spans:
            load = next((load for span, load in member.loads.items() if span in spans), None)
            if load is None or load.weights is None or len(load.weights) < plan.first_step:
                return
            assert len(load.weights) == plan.first_step, "it was led beyond the change"
            (member.span,) = spans
            self.fired["a shadow took over"] += member.shadow == member.span
            group = plan.group_of(member.span)
            assert group is not None
            member.replica = Replica(group, plan.number, plan.first_step, self.staleness)
            member.weights = list(load.weights)
            member.base, member.key, member.journaled = len(load.weights), NO_ROUND, None
            cursor = load.order.next_cursor
            window = Window(member.name, plan, plan.first_step, cursor, self.staleness)
            member.window = window if member.span == ENDS else None
            self.fired["span changed"] += 1
        else:
            group = plan.group_of(member.span)
            assert group is not None
            member.replica.adopt(plan.number, group)
            if member.window is not None:
                member.window.adopt(plan)
        assert not member.contributions, "two plans mixed in a step"
        member.loads = {span: load for span, load in member.loads.items() if span not in spans}
        for load in member.loads.values():
            load.order = replace(load.order, donors=plan.donors_after(load.span, load.order.donors))
        member.shadow, member.left = shadow, left
        member.adopting = None
        member.plan, member.first_step = plan.number, plan.first_step
        member.versions = [plan.first_step] * 2
        self.wake(member)

    # --- orders ----------------------------------------------------------------------------------------------------

    def wake(self, member: Member) -> None:
        waiting, member.waiting = member.waiting, []
        for message in waiting:
            if isinstance(message, BoundaryTensor):
                self.on_frame(member, message)
            else:
                self.on_order(member, message)

    def on_order(self, member: Member, message: object) -> None:
        replica = member.replica
        if member.adopting is not None:
            member.waiting.append(message)  # orders are carried out one at a time
        elif isinstance(message, PrepareGroup):
            self.on_prepare(member, message)
        elif isinstance(message, FollowStep):
            for span, load in member.loads.items():
                if load.order.transfer == message.transfer:
                    load.steps.add(message.step)
                    self.load_on(member, span)
        elif isinstance(message, CancelGroup):
            loads = member.loads.items()
            member.loads = {span: load for span, load in loads if load.order.transfer != message.transfer}
        elif isinstance(message, RunPaused):
            assert message.paused or self.fired["paused"]
        elif isinstance(message, Plan):
            self.on_plan(member, message)
        elif replica is None:
            self.fired["order without a replica"] += 1  # said twice, or about a group that it left
        elif isinstance(message, GrantLeases | ReplayWork | PeersLost) and member.window is None:
            self.fired["order without a window"] += 1
        elif isinstance(message, GrantLeases):
            assert member.window is not None
            member.window.grant(message)
        elif isinstance(message, ReplayWork):
            assert member.window is not None
            member.window.replay(message)
        elif isinstance(message, PeersLost):
            assert member.window is not None
            member.window.peers_lost(message.peers)
        elif isinstance(message, CloseStep):
            self.on_close(member, message)
        elif isinstance(message, GoRound):
            if replica.go(message):
                self.reduce(member, message)
        elif isinstance(message, ReopenStep):
            if replica.reopen(message):
                member.average = None
                self.fired["waited for a step to open again"] += any(
                    isinstance(frame, BoundaryTensor) and frame.work.step == replica.step for frame in member.waiting
                )
            self.wake(member)
        elif isinstance(message, CommitStep):
            self.on_commit(member, message)
        else:
            raise AssertionError(message)

    def on_close(self, member: Member, order: CloseStep) -> None:
        assert member.replica is not None
        if order.step > member.replica.step:
            member.waiting.append(order)
            return
        closing = member.replica.close(order)
        if closing is None:
            return
        for lease in closing.retract:
            self.fired["retracted"] += 1
            del member.contributions[order.step, lease]
        if closing.missing:
            self.fired["missing at close"] += 1
        else:
            member.round_members = order.members
            member.record = order.record
            key = (order.term, order.step, order.stage, order.round)
            counted = _of(order.step, member.contributions)
            self.rounds.setdefault(key, {})[member.name] = counted
            assert order.plan == member.plan, "two plans mixed in a step"
            if member.window is not None:
                back = _of(order.step, member.back_contributions)
                assert back == counted, "front and back counted different things"
            assert order.tokens[order.members.index(member.name)] == TOKENS * len(counted)
        self.send(
            member.name,
            member.allegiance.leader,
            StepClosed(step=order.step, stage=order.stage, round=order.round, missing=closing.missing),
        )

    def reduce(self, member: Member, order: GoRound) -> None:
        key = (order.term, order.step, order.stage, order.round)
        broken = any(name in self.dead for name in member.round_members)
        if self.leader._failed_rounds < 3:  # five in a row halt the run, rightly
            broken |= self.random.random() < 0.02
        if broken:
            self.fired["round failed"] += 1
            blamed = self.random.choice([*self.expendable(), ""])
            if blamed in member.round_members:
                self.accused.add(blamed)
            about = {"step": order.step, "stage": order.stage, "round": order.round}
            report: object = RoundFailed(**about, problem="hole", blamed=blamed)
        else:
            prepared = self.rounds[key]
            assert set(prepared) == set(member.round_members), "go before everybody had prepared"
            member.average = frozenset(item for counted in prepared.values() for item in counted.items())
            assert member.replica.reduced(order.round)
            member.journaled = Journaled(order.step, RoundKey(order.term, order.round), member.average, member.record)
            report = RoundReduced(
                step=order.step,
                stage=order.stage,
                round=order.round,
                digest=str(sorted(member.average)),
                square_norm=1.0,
            )
        self.send(member.name, member.allegiance.leader, report)

    def on_commit(self, member: Member, order: CommitStep) -> None:
        assert member.replica is not None
        if not member.replica.commit(order):
            return
        assert member.average is not None
        member.weights.append(member.average)
        member.average = None
        member.key = RoundKey(order.term, order.round)
        assert member.journaled is not None
        member.records[order.step] = member.journaled
        member.versions[order.step % 2] = order.step + 1
        for contributions in (member.contributions, member.back_contributions):
            for lease in _of(order.step, contributions):
                del contributions[order.step, lease]
        if member.window is not None:
            member.window.committed(order.step)
        # As everywhere here, an average is named by the step before it.
        kept = {step: each for step, each in member.shared.items() if step >= order.averages_after}
        member.shared = kept if order.averages_after >= 0 else {}
        if order.snapshot:
            member.copies = {order.step + 1: (member.span, list(member.weights))}
        if order.averages_after >= 0:
            member.shared[order.step] = member.span, member.weights[-1]
        self.send(
            member.name,
            member.allegiance.leader,
            StepApplied(step=order.step, stage=order.stage, digest=digest_of(member.weights)),
        )

    # --- microbatches ----------------------------------------------------------------------------------------------

    def pump(self, member: Member) -> None:
        if member.window is None or member.name in self.dead:
            return
        assert member.replica is not None
        for admission in member.window.admit(0.0):
            self.cursors[member.name, admission.work.step, admission.work.lease] = admission.cursor
            self.plan_numbers[member.name, admission.work.step] = member.window.plan.number
            verdict = member.replica.forward(member.window.plan.number, admission.work)
            if verdict is not Verdict.COMPUTE:
                self.fired[f"owner's own {verdict}"] += 1
                member.window.put_back(admission.work)
                return
            self.check_weights(member, admission.work.step)
            self.forward(member, admission.work, 0, member.name, admission.route)

    def check_weights(self, member: Member, step: int) -> None:
        """A step runs on the newest weights, or with staleness 1 on those before, but for the first of a plan."""
        if not self.staleness:
            assert len(member.weights) == step
            return
        assert member.versions[step % 2] == (step if step == member.first_step else step - 1)
        self.fired["ran ahead"] += step > len(member.weights)

    def frame(self, kind: type, work: Work, stage: int, owner: str, route: tuple[str, ...]) -> BoundaryTensor:
        plan = self.plan_numbers[owner, work.step]
        frame: BoundaryTensor = kind(
            plan=plan, work=work, stage=stage, owner=owner, route=route, codec="fp32", shape=(1, 1, 1)
        )
        return frame

    def forward(self, member: Member, work: Work, stage: int, owner: str, route: tuple[str, ...]) -> None:
        frame = self.frame(Activation, work, stage, owner, route)
        self.send(member.name, frame.receiver, frame)

    def backward(self, member: Member, work: Work, stage: int, owner: str, route: tuple[str, ...]) -> None:
        frame = self.frame(BoundaryGradient, work, stage, owner, route)
        self.send(member.name, frame.receiver, frame)

    def on_frame(self, member: Member, frame: BoundaryTensor) -> None:
        if member.name == frame.owner:
            self.on_owner_frame(member, frame)
            return
        replica = member.replica
        if replica is None:
            if frame.plan > member.plan:
                member.waiting.append(frame)
            return
        is_forward = isinstance(frame, Activation)
        verdict = (replica.forward if is_forward else replica.backward)(frame.plan, frame.work)
        if verdict is Verdict.WAIT:
            member.waiting.append(frame)
        elif verdict is Verdict.COMPUTE:
            self.check_weights(member, frame.work.step)
            self.forward(member, frame.work, frame.stage + 1, frame.owner, frame.route)
        elif verdict in (Verdict.COUNT, Verdict.ANSWER):
            if verdict is Verdict.COUNT:
                key = frame.work.step, frame.work.lease
                member.contributions[key] = self.cursors[frame.owner, *key]
            else:
                self.fired["answered from the books"] += 1
            self.backward(member, frame.work, frame.stage - 1, frame.owner, frame.route)

    def on_owner_frame(self, member: Member, frame: BoundaryTensor) -> None:
        window = member.window
        if window is None or member.replica is None:
            self.fired["home to nobody"] += 1  # between two leaders
            return
        cursor = window.cursor_of(frame.work)
        if cursor is None or not window.is_wanted(frame.plan, frame.work, frame.route):
            return
        key = frame.work.step, frame.work.lease
        if isinstance(frame, Activation):
            verdict = member.replica.turn(frame.plan, frame.work)
            if verdict not in (Verdict.COUNT, Verdict.ANSWER):
                return
            if verdict is Verdict.COUNT:
                assert key not in member.back_contributions
                member.back_contributions[key] = cursor
            self.backward(member, frame.work, len(frame.route) - 1, member.name, frame.route)
            return
        verdict = member.replica.backward(frame.plan, frame.work)
        if verdict not in (Verdict.COUNT, Verdict.ANSWER):
            return
        assert key in member.back_contributions
        if verdict is Verdict.COUNT:
            member.contributions[key] = cursor
        route = window.complete(frame.work)
        assert route == frame.route
        self.send(
            member.name,
            member.allegiance.leader,
            MicrobatchDone(work=frame.work, route=frame.route, tokens=TOKENS, loss_sum=1.0, cursor=cursor),
        )


def digest_of(weights: list[Average]) -> str:
    """Of all averages that made them."""
    return str([sorted(average) for average in weights])


def _of(step: int, contributions: Contributions) -> dict[Lease, int]:
    return {lease: cursor for (other, lease), cursor in contributions.items() if other == step}
