"""A virtual data owner: the desk of a production `Window`, both ends of the model, one compute thread, one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.simulator.peer import Peer, frame_of
from benchmarks.simulator.servers import Priority
from peers.replica import Verdict
from peers.window import Window
from swarm.model.spans import Span
from swarm.plan import Plan
from swarm.wire.messages import (
    Activation,
    BoundaryGradient,
    BoundaryTensor,
    GrantLeases,
    HopFailed,
    MicrobatchDone,
    PeersLost,
    ReplayWork,
    Work,
)

if TYPE_CHECKING:
    from benchmarks.simulator.run import Simulation

"""As in `peers.owner`."""


class Owner(Peer):
    """Sends out microbatches, turns them around, counts them.

    Args:
        ends_s: see `benchmarks.simulator.config.VirtualOwner`.
    """

    def __init__(
        self,
        simulation: Simulation,
        name: str,
        region: int,
        up_bytes_per_s: float,
        down_bytes_per_s: float,
        apply_s: float,
        ends_s: float,
    ) -> None:
        super().__init__(simulation, name, region, up_bytes_per_s, down_bytes_per_s, apply_s)
        self._ends_s = ends_s
        self.window: Window | None = None
        self.num_attempts = 0

    def build(self, plan: Plan, group: int, step: int) -> None:
        """Own data from this step on."""
        super().build(plan, group, step)
        self.window = Window(self.name, plan, step, 0)

    def adopt(self, plan: Plan, group: int) -> None:
        """A newer plan: other routes."""
        super().adopt(plan, group)
        assert self.window is not None
        self.window.adopt(plan)

    def microbatch_s(self, span: Span) -> float:
        """Both ends, forward and backward."""
        return self._ends_s

    def obey(self, order: object) -> None:
        """Leases, replays, losses."""
        assert self.window is not None
        if isinstance(order, GrantLeases):
            self.window.grant(order)
        elif isinstance(order, ReplayWork):
            self.window.replay(order)
        elif isinstance(order, PeersLost):
            self.window.peers_lost(order.peers)
        self._pump()

    def committed(self, step: int) -> None:
        """Its leases are spent."""
        assert self.window is not None
        self.window.committed(step)

    def hop_failed(self, report: HopFailed) -> None:
        """A microbatch cannot go on: around the peer, at once or after a pause."""
        clock = self.simulation.clock
        if self.window is None or not self.window.hop_failed(report.work, report.peer, clock.now_s):
            return
        self._pump()
        pause_s = self.window.next_attempt_in_s(clock.now_s)
        if pause_s is not None:
            clock.after(pause_s, self._pump)

    def _pump(self) -> None:
        if self.dead or self.window is None or self.replica is None:
            return
        plan = self.window.plan
        for admission in self.window.admit(self.simulation.clock.now_s):
            if self.replica.forward(plan.number, admission.work) is not Verdict.COMPUTE:
                self.window.put_back(admission.work)
                return
            self.num_attempts += 1
            frame = frame_of(Activation, plan.number, admission.work, 0, self.name, admission.route)
            self._compute(Priority.FORWARD, self._front_s(), frame)

    def _front_s(self) -> float:
        return self.simulation.forward_share * self._ends_s / 2

    def _compute(self, priority: Priority, seconds: float, frame: BoundaryTensor, transit_s: float = 0.0) -> None:
        self.compute.submit(priority, seconds, transit_s, lambda: self.simulation.send(self, frame))

    def take(self, frame: BoundaryTensor, transit_s: float) -> None:
        """A microbatch came home: from the last stage, or from the first."""
        if self.window is None or self.replica is None:
            return
        if not self.window.is_wanted(frame.plan, frame.work, frame.route):
            return
        decide = self.replica.turn if isinstance(frame, Activation) else self.replica.backward
        if decide(frame.plan, frame.work) not in (Verdict.COUNT, Verdict.ANSWER):
            return
        self.begin_count()
        if isinstance(frame, Activation):
            last = len(frame.route) - 1
            onward = frame_of(BoundaryGradient, frame.plan, frame.work, last, self.name, frame.route)
            self.compute.submit(Priority.LOSS, self._ends_s / 2, transit_s, lambda: self._turned(onward))
        else:
            seconds = self._ends_s / 2 - self._front_s()
            self.compute.submit(Priority.BACKWARD, seconds, transit_s, lambda: self._finished(frame.work))

    def _turned(self, onward: BoundaryTensor) -> None:
        self.simulation.send(self, onward)
        self.end_count()

    def _finished(self, work: Work) -> None:
        assert self.window is not None
        self.end_count()
        cursor = self.window.cursor_of(work)
        route = self.window.complete(work)
        if route is None or cursor is None:
            return
        tokens = self.simulation.config.microbatch_tokens
        self.simulation.report(self, MicrobatchDone(work=work, route=route, tokens=tokens, loss_sum=0.0, cursor=cursor))
        self._pump()
