"""The shell of a data owner: text stays here, boundary tensors go out and their gradients come home."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from peers.link_codecs import LinkCodecs
from peers.member import GroupMember
from peers.replica import Verdict
from peers.window import Admission, Window
from peers.workplace import Workplace
from swarm.data.sampler import microbatch
from swarm.data.shards import Shard
from swarm.errors import NonFinite, ProtocolError, SwarmError
from swarm.net.channel import Delivery
from swarm.net.deadlines import Deadline
from swarm.plan import Plan
from swarm.tasks import TaskSet
from swarm.training.compute import Priority
from swarm.training.stage import EndsStage
from swarm.wire import compression
from swarm.wire.messages import (
    Activation,
    BoundaryGradient,
    GrantLeases,
    HopFailed,
    Lease,
    MicrobatchDone,
    PeersLost,
    ReplayWork,
    SuspectPeer,
    Work,
)

OVERDUE_FLOOR_S = 5.0
"""A microbatch is never sent again sooner: on a busy machine a hop may take seconds."""
_MOST_EXPECTED_S = 30.0
"""Whatever the plan predicts: it may be wrong, and a peer that swallows microbatches has to be noticed."""
_CHECK_S = 1.0

WindowOrder = GrantLeases | ReplayWork | PeersLost


@dataclass(slots=True)
class _OnTheWay:
    """What the owner needs when the activation or gradient of an attempt comes home."""

    labels: Tensor
    started_s: float
    loss_sum: float = 0.0


class Owner:
    """Drives the microbatches of one private shard.

    Args:
        place: where it happens.
        plan: the one that holds; replaced by `adopt`.
        next_cursor: first microbatch of the shard that no committed step has used.
        member: of the ends' group.
    """

    def __init__(
        self, place: Workplace, plan: Plan, shard: Shard, next_cursor: int, member: GroupMember, ends: EndsStage
    ) -> None:
        self._config = place.config
        self._codecs = LinkCodecs.of(self._config.numerics.boundary_codecs, plan)
        self._shard = shard
        self._seed = shard.sampling_seed(place.config.seed)
        self._endpoint = place.endpoint
        self._compute = place.compute
        self._member = member
        self._ends = ends
        self._report = place.report
        staleness = place.config.schedule.staleness
        self.window = Window(place.peer_id, plan, plan.first_step, next_cursor, staleness)
        self._on_the_way: dict[tuple[int, Lease], _OnTheWay] = {}
        self._round_trip = Deadline()
        self._expect()
        self._is_waking = False
        self._tasks = TaskSet()
        self._tasks.start(self._watch_overdue())
        self.computed_tokens = 0

    # --- orders ----------------------------------------------------------------------------------------------------

    def adopt(self, plan: Plan) -> None:
        """A newer plan holds from the step that is open."""
        self.window.adopt(plan)
        self._codecs = LinkCodecs.of(self._config.numerics.boundary_codecs, plan)
        self._expect()

    def _expect(self) -> None:
        """On thin lines a window takes long by itself: to send it again would only make it longer."""
        expected_s = min(_MOST_EXPECTED_S, self.window.expected_s(self._config.microbatch_tokens))
        self._round_trip.floor_s = max(OVERDUE_FLOOR_S, 2 * expected_s)
        self._round_trip.first_s = 4 * self._round_trip.floor_s

    def handle(self, order: WindowOrder) -> None:
        """Carry out one order of the leader."""
        if isinstance(order, GrantLeases):
            self.window.grant(order)
        elif isinstance(order, ReplayWork):
            self.window.replay(order)
        else:
            self.window.peers_lost(order.peers)
        self.pump()

    def committed(self) -> None:
        """The step of the window is committed."""
        step = self.window.step
        self.window.committed(step)
        for key in [key for key in self._on_the_way if key[0] <= step]:
            del self._on_the_way[key]

    def hop_failed(self, report: HopFailed, reporter: str) -> None:
        """A hop could not be taken: go around it, and tell the leader."""
        if self.window.hop_failed(report.work, report.peer, time.monotonic(), reporter):
            self._report(SuspectPeer(peer=report.peer, problem=report.problem))
            self.pump()
            if not self._is_waking:
                self._is_waking = True
                self._tasks.start(self._wake_paused())

    async def close(self) -> None:
        """Stop driving."""
        await self._tasks.close()

    # --- going out -------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Send out what the window has room for."""
        for admission in self.window.admit(time.monotonic()):
            verdict = self._member.replica.forward(self.window.plan.number, admission.work)
            if verdict is Verdict.COMPUTE:
                self._tasks.start(self._send_out(admission))
            else:
                self.window.put_back(admission.work)
                return

    async def _wake_paused(self) -> None:
        """Send out what failed several times, when its pause is over."""
        while (pause_s := self.window.next_attempt_in_s(time.monotonic())) is not None:
            await asyncio.sleep(pause_s)
            self.pump()
        self._is_waking = False

    async def _send_out(self, admission: Admission) -> None:
        work = admission.work
        ids, labels = microbatch(self._shard.train_tokens, self._config, self._seed, admission.cursor)
        self._on_the_way[work.step, work.lease] = _OnTheWay(torch.from_numpy(labels), time.monotonic())

        codec = self._codecs.between(self._endpoint.peer_id, admission.route[0])

        def job() -> tuple[memoryview, tuple[int, ...]]:
            hidden = self._ends.front(work, torch.from_numpy(ids))
            return compression.encode(codec, hidden), tuple(hidden.shape)

        try:
            payload, shape = await self._compute.run(Priority.FORWARD, job)
        except NonFinite as error:
            self._member.diverged(error.problem)
            return
        frame = Activation(
            plan=self.window.plan.number,
            work=work,
            stage=0,
            owner=self._endpoint.peer_id,
            route=admission.route,
            codec=codec,
            shape=shape,
        )
        await self._send(frame, payload)

    async def _send(self, frame: Activation | BoundaryGradient, payload: memoryview) -> None:
        try:
            await self._endpoint.send(frame.receiver, frame, payload)
        except SwarmError as error:
            failed = HopFailed(work=frame.work, peer=frame.receiver, problem=error.problem)
            self.hop_failed(failed, self._endpoint.peer_id)

    # --- coming home -----------------------------------------------------------------------------------------------

    def take(self, delivery: Delivery) -> None:
        """A boundary tensor came home; attempts that no longer matter are dropped."""
        frame = delivery.message
        assert isinstance(frame, Activation | BoundaryGradient)
        home = len(frame.route) if isinstance(frame, Activation) else -1
        ours = frame.owner == self._endpoint.peer_id and frame.stage == home and frame.sender == delivery.remote_id
        ours = ours and frame.codec == self._codecs.between(frame.sender, frame.receiver)
        if not ours or not self.window.is_wanted(frame.plan, frame.work, frame.route):
            delivery.release()
            return
        try:
            tensor = compression.decode(frame.codec, delivery.payload, frame.shape)
        except ProtocolError as error:
            delivery.release()
            failed = HopFailed(work=frame.work, peer=delivery.remote_id, problem=error.problem)
            self.hop_failed(failed, self._endpoint.peer_id)
            return
        replica = self._member.replica
        decide = replica.turn if isinstance(frame, Activation) else replica.backward
        verdict = decide(frame.plan, frame.work)
        if verdict not in (Verdict.COUNT, Verdict.ANSWER):
            delivery.release()
            return
        self._member.begin_count(frame.work.step)
        count = verdict is Verdict.COUNT
        if isinstance(frame, Activation):
            began = self._on_the_way[frame.work.step, frame.work.lease]
            self._tasks.start(self._turn_around(frame, began, tensor, delivery, count=count))
        else:
            self._tasks.start(self._finish(frame, tensor, delivery, count=count))

    async def _turn_around(
        self, frame: Activation, began: _OnTheWay, hidden: Tensor, delivery: Delivery, *, count: bool
    ) -> None:
        def job() -> tuple[float, memoryview]:
            loss_sum, gradient = self._ends.back(frame.work, hidden, began.labels, count=count)
            return loss_sum, compression.encode(frame.codec, gradient, gradient=True)

        whole = False
        try:
            began.loss_sum, payload = await self._compute.run(Priority.LOSS, job)
            whole = True
        except NonFinite as error:
            self._member.diverged(error.problem)
            return
        finally:
            delivery.release()
            await self._member.end_count(frame.work.step, whole=whole)
        gradient = BoundaryGradient(
            plan=frame.plan,
            work=frame.work,
            stage=len(frame.route) - 1,
            owner=frame.owner,
            route=frame.route,
            codec=frame.codec,
            shape=frame.shape,
        )
        await self._send(gradient, payload)

    async def _finish(self, frame: BoundaryGradient, gradient: Tensor, delivery: Delivery, *, count: bool) -> None:
        def job() -> None:
            self._ends.front_backward(frame.work, gradient, count=count)

        whole = False
        try:
            await self._compute.run(Priority.BACKWARD, job)
            whole = True
        finally:
            delivery.release()
            await self._member.end_count(frame.work.step, whole=whole)
        self._done(frame.work)

    def _done(self, work: Work) -> None:
        cursor = self.window.cursor_of(work)
        route = self.window.complete(work)
        if route is None or cursor is None:
            return
        began = self._on_the_way[work.step, work.lease]
        self._round_trip.observe(time.monotonic() - began.started_s)
        tokens = self._config.microbatch_tokens
        self.computed_tokens += tokens
        self._report(MicrobatchDone(work=work, route=route, tokens=tokens, loss_sum=began.loss_sum, cursor=cursor))
        self.pump()

    # --- time ------------------------------------------------------------------------------------------------------

    async def _watch_overdue(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            for work, route in self.window.overdue(time.monotonic(), self._round_trip.seconds):
                for peer in route:
                    problem = f"microbatch {work.lease.number} of step {work.step} is overdue"
                    self._report(SuspectPeer(peer=peer, problem=problem))
            self.pump()
