"""A virtual peer: the books of a production `Replica`, one compute thread, one line."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from benchmarks.simulator.servers import Compute, Line, Priority
from peers.replica import Replica, Verdict
from swarm.model.spans import Span
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
    GroupLoaded,
    GroupNotLoaded,
    PrepareGroup,
    ReopenStep,
    StepApplied,
    StepClosed,
    Work,
)

if TYPE_CHECKING:
    from benchmarks.simulator.run import Simulation

StepOrder = CloseStep | GoRound | ReopenStep | CommitStep


@dataclass(slots=True)
class Load:
    """What a peer loads for the plan to come, or keeps as a shadow.

    Attributes:
        num_steps: its state has seen so many; -1 while the first copy is on its way.
        committed: steps that it must follow, as far as it has heard.
    """

    order: PrepareGroup
    num_steps: int = -1
    committed: set[int] = field(default_factory=set)
    is_fetching: bool = True

    @property
    def span(self) -> Span:
        """Layers."""
        return self.order.first_layer, self.order.last_layer


class Peer:
    """What hosts and owners share: orders of the leader, rounds, plan changes.

    Args:
        simulation: that carries what it sends.
        apply_s: of the optimizer's step.
    """

    def __init__(
        self,
        simulation: Simulation,
        name: str,
        region: int,
        up_bytes_per_s: float,
        down_bytes_per_s: float,
        apply_s: float,
    ) -> None:
        self.simulation = simulation
        self.name = name
        self.region = region
        self.up, self.down = Line(up_bytes_per_s), Line(down_bytes_per_s)
        self.compute = Compute(simulation.clock)
        self.dead = False
        self.joined_s = simulation.clock.now_s
        self.died_s: float | None = None
        self.load_s = 0.0
        self.replica: Replica | None = None
        self.span: Span = (0, 0)
        self.plan: Plan | None = None
        self.apply_s = apply_s
        self.num_applied = 0
        self._counting = 0
        self._orders: deque[StepOrder] = deque()
        self._waiting: list[tuple[object, float]] = []
        self._loads: dict[Span, Load] = {}
        self._left: tuple[Span, int] | None = None
        self._adopting: Plan | None = None

    # --- what the two kinds do differently -------------------------------------------------------------------------

    def build(self, plan: Plan, group: int, step: int) -> None:
        """Hold a group's state from this step on."""
        self.plan, self.span = plan, plan.span_of(group)
        self.replica = Replica(group, plan.number, step)

    def adopt(self, plan: Plan, group: int) -> None:
        """A newer plan, the same span."""
        assert self.replica is not None
        self.plan = plan
        self.replica.adopt(plan.number, group)

    def microbatch_s(self, span: Span) -> float:
        """Seconds of computing that a microbatch costs this peer, all in all."""
        raise NotImplementedError

    def take(self, frame: BoundaryTensor, transit_s: float) -> None:
        """A boundary tensor is here."""
        raise NotImplementedError

    def obey(self, order: object) -> None:
        """An order that only owners get."""

    def committed(self, step: int) -> None:
        """A step is over."""

    # --- orders ----------------------------------------------------------------------------------------------------

    def hear(self, message: object) -> None:
        """A message of the leader arrived."""
        if isinstance(message, PrepareGroup | FollowStep | CancelGroup):
            self._load_order(message)
        elif self._adopting is not None:
            self._waiting.append((message, 0.0))
        elif isinstance(message, Plan):
            self._adopt_when_loaded(message)
        elif self.replica is None:
            return  # said to a member of a group that it has left
        elif isinstance(message, CloseStep | GoRound | ReopenStep | CommitStep):
            self._orders.append(message)
            self._carry_out()
        else:
            self.obey(message)

    def _carry_out(self) -> None:
        while self._orders:
            order = self._orders[0]
            assert self.replica is not None
            if isinstance(order, CloseStep) and (self._counting or order.step > self.replica.step):
                return  # what the books have counted is not in the sums yet
            self._orders.popleft()
            if isinstance(order, CloseStep):
                self._close(order)
            elif isinstance(order, GoRound):
                if self.replica.go(order):
                    self.simulation.reduce(self, order)
            elif isinstance(order, ReopenStep):
                self.replica.reopen(order)
                self.wake()
            else:
                self._commit(order)

    def _close(self, order: CloseStep) -> None:
        assert self.replica is not None
        closing = self.replica.close(order)
        if closing is None:
            return
        report = StepClosed(step=order.step, stage=order.stage, round=order.round, missing=closing.missing)
        retract_s = len(closing.retract) * self.microbatch_s(self.span)
        self.compute.submit(Priority.BACKWARD, retract_s, 0.0, lambda: self.simulation.report(self, report))

    def _commit(self, order: CommitStep) -> None:
        assert self.replica is not None
        if not self.replica.commit(order):
            return
        self.compute.commit(self.simulation.closing_since_s)
        self.num_applied += 1
        applied = StepApplied(step=order.step, stage=order.stage, digest=str(order.step + 1))
        self.compute.submit(Priority.BACKWARD, self.apply_s, 0.0, lambda: self.simulation.report(self, applied))
        self.committed(order.step)
        self.wake()

    # --- microbatches ----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look again at what came too early."""
        waiting, self._waiting = self._waiting, []
        for message, transit_s in waiting:
            if isinstance(message, BoundaryTensor):
                self.take(message, transit_s)
            else:
                self.hear(message)

    def wait(self, frame: BoundaryTensor, transit_s: float) -> None:
        """A frame came too early."""
        self._waiting.append((frame, transit_s))

    def begin_count(self) -> None:
        """A microbatch entered the books: the step cannot close before it is computed."""
        self._counting += 1

    def end_count(self) -> None:
        """It is computed."""
        self._counting -= 1
        self._carry_out()

    # --- plan changes ----------------------------------------------------------------------------------------------

    def _load_order(self, order: PrepareGroup | FollowStep | CancelGroup) -> None:
        if isinstance(order, PrepareGroup):
            load = self._loads[order.first_layer, order.last_layer] = Load(order)
            leaves = None if self._adopting is None else (self.span, self._adopting.first_step)
            has_it = (load.span, order.num_steps) in (self._left, leaves)
            self._fetch(load, 0.0 if has_it else self.simulation.state_bytes(load.span))
            return
        for known in [known for known in self._loads.values() if known.order.transfer == order.transfer]:
            if isinstance(order, CancelGroup):
                del self._loads[known.span]
            else:
                known.committed.add(order.step)
                self._follow(known)

    def _fetch(self, load: Load, num_bytes: float) -> None:
        load.is_fetching = True
        order = load.order
        seconds = self.simulation.fetch_s(self, order.donors, num_bytes)
        if seconds is None:
            first, last = load.span
            del self._loads[load.span]
            problem = "nobody who has it lives"
            self.simulation.report(
                self,
                GroupNotLoaded(transfer=order.transfer, first_layer=first, last_layer=last, problem=problem),
            )
            return
        self.load_s += seconds
        self.simulation.clock.after(seconds, self._fetched, load)

    def _fetched(self, load: Load) -> None:
        if load is not self._loads.get(load.span) or self.dead:
            return
        load.is_fetching = False
        load.num_steps = load.order.num_steps if load.num_steps < 0 else load.num_steps + 1
        report = GroupLoaded(
            transfer=load.order.transfer,
            first_layer=load.span[0],
            last_layer=load.span[1],
            num_steps=load.num_steps,
            digest=str(load.num_steps),
        )
        self.simulation.report(self, report)
        self._follow(load)
        self._finish_adopting()

    def _follow(self, load: Load) -> None:
        if not load.is_fetching and load.num_steps in load.committed:
            self._fetch(load, self.simulation.reduced_bytes(load.span))

    def _adopt_when_loaded(self, plan: Plan) -> None:
        if self.plan is None or plan.number > self.plan.number:
            self._adopting = plan
            self._finish_adopting()

    def _finish_adopting(self) -> None:
        plan = self._adopting
        if plan is None:
            return
        spans = plan.spans_of(self.name)
        left = (self.span, plan.first_step) if self.replica is not None and self.span not in spans else None
        if not spans:
            self.plan, self.replica = plan, None
        elif self.replica is not None and self.span in spans:
            group = plan.group_of(self.span)
            assert group is not None
            self.adopt(plan, group)
        else:
            load = next((load for span, load in self._loads.items() if span in spans), None)
            if load is None or load.num_steps < plan.first_step:
                return
            group = plan.group_of(load.span)
            assert group is not None
            self.build(plan, group, plan.first_step)
        self._loads = {span: load for span, load in self._loads.items() if span not in spans}
        for load in self._loads.values():
            load.order = replace(load.order, donors=plan.donors_after(load.span, load.order.donors))
        self._left, self._adopting = left, None
        self.wake()


class Host(Peer):
    """Computes one trunk stage.

    Args:
        layer_s, overhead_s: see `benchmarks.simulator.config.VirtualHost`.
    """

    def __init__(
        self,
        simulation: Simulation,
        name: str,
        region: int,
        up_bytes_per_s: float,
        down_bytes_per_s: float,
        apply_s: float,
        layer_s: float,
        overhead_s: float,
    ) -> None:
        super().__init__(simulation, name, region, up_bytes_per_s, down_bytes_per_s, apply_s)
        self._layer_s = layer_s
        self._overhead_s = overhead_s

    def microbatch_s(self, span: Span) -> float:
        """Forward and backward."""
        return (span[1] - span[0]) * self._layer_s + self._overhead_s

    def take(self, frame: BoundaryTensor, transit_s: float) -> None:
        """Compute it and pass it on."""
        if self.replica is None or self.plan is None:
            # Of the plan to come, while this host still loads for it; otherwise of one that it has left.
            if self.plan is None or frame.plan > self.plan.number:
                self.wait(frame, transit_s)
            return
        is_forward = isinstance(frame, Activation)
        verdict = (self.replica.forward if is_forward else self.replica.backward)(frame.plan, frame.work)
        if verdict is Verdict.WAIT:
            self.wait(frame, transit_s)
        elif verdict is Verdict.COMPUTE:
            seconds = self.simulation.forward_share * self.microbatch_s(self.span)
            self.compute.submit(Priority.FORWARD, seconds, transit_s, lambda: self._pass_on(frame, frame.stage + 1))
        elif verdict in (Verdict.COUNT, Verdict.ANSWER):
            seconds = (1 - self.simulation.forward_share) * self.microbatch_s(self.span)
            self.begin_count()
            self.compute.submit(Priority.BACKWARD, seconds, transit_s, lambda: self._turned(frame))

    def _turned(self, frame: BoundaryTensor) -> None:
        self._pass_on(frame, frame.stage - 1)
        self.end_count()

    def _pass_on(self, frame: BoundaryTensor, stage: int) -> None:
        kind = Activation if isinstance(frame, Activation) else BoundaryGradient
        self.simulation.send(self, frame_of(kind, frame.plan, frame.work, stage, frame.owner, frame.route))


def frame_of(
    kind: type[Activation] | type[BoundaryGradient],
    plan: int,
    work: Work,
    stage: int,
    owner: str,
    route: tuple[str, ...],
) -> BoundaryTensor:
    """A frame without a tensor."""
    return kind(plan=plan, work=work, stage=stage, owner=owner, route=route, codec="", shape=(1,))
