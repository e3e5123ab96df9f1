"""The shell of a host: activations and gradients in, computed, on to the next hop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from peers.link_codecs import LinkCodecs
from peers.member import GroupMember
from peers.replica import Verdict
from peers.workplace import Workplace
from swarm.errors import MachineLimit, NonFinite, ProtocolError, SwarmError
from swarm.net.channel import Delivery
from swarm.plan import Plan
from swarm.tasks import TaskSet
from swarm.training.compute import Priority
from swarm.training.stage import TrunkStage
from swarm.wire import compression
from swarm.wire.messages import Activation, BoundaryGradient, BoundaryTensor, HopFailed

MAX_WAITING = 4096
"""Frames of later steps that a host holds back; a plan's windows never come near."""


_SMOOTHING = 0.05

B = TypeVar("B", Activation, BoundaryGradient)


class Host:
    """Computes one trunk stage for whoever's route leads here.

    Args:
        place: where it happens.
        plan: the one that holds; replaced by `adopt`.
        member: of the stage's group.
        hop_failed: tells an owner that its microbatch cannot go on.
    """

    def __init__(
        self,
        place: Workplace,
        plan: Plan,
        member: GroupMember,
        stage: TrunkStage,
        hop_failed: Callable[[str, HopFailed], None],
    ) -> None:
        self._allowed_codecs = place.config.numerics.boundary_codecs
        self._plan = plan
        self._codecs = LinkCodecs.of(self._allowed_codecs, plan)
        self._endpoint = place.endpoint
        self._compute = place.compute
        self._member = member
        self._stage = stage
        self._hop_failed = hop_failed
        self._waiting: list[Delivery] = []
        self._tasks = TaskSet()
        self.computed_tokens = 0
        self._forward_s, self._backward_s = 0.0, 0.0

    @property
    def layer_s(self) -> float:
        """Forward and backward of one layer for one microbatch, a running mean; 0 before both were seen."""
        if not (self._forward_s and self._backward_s):
            return 0.0
        return (self._forward_s + self._backward_s) / self._stage.num_layers

    def adopt(self, plan: Plan) -> None:
        """A newer plan with the same span for this host holds."""
        self._plan = plan
        self._codecs = LinkCodecs.of(self._allowed_codecs, plan)
        self.wake()

    async def close(self) -> None:
        """Stop computing."""
        await self._tasks.close()

    def wake(self) -> None:
        """Look again at frames that came too early."""
        waiting, self._waiting = self._waiting, []
        for delivery in waiting:
            self.take(delivery)

    def take(self, delivery: Delivery) -> None:
        """A boundary tensor arrived."""
        frame = delivery.message
        assert isinstance(frame, Activation | BoundaryGradient)
        replica = self._member.replica
        if self._is_early(frame, delivery.remote_id):
            self._waiting.append(delivery)
            return
        if not self._is_ours(frame, delivery.remote_id):
            replica.refused += 1
            delivery.release()
            return
        try:
            # Before the books see it: what cannot be computed must not be counted.
            tensor = compression.decode(frame.codec, delivery.payload, frame.shape)
        except ProtocolError as error:
            delivery.release()
            self._hop_failed(frame.owner, HopFailed(work=frame.work, peer=delivery.remote_id, problem=error.problem))
            return
        if isinstance(frame, Activation):
            if replica.forward(frame.plan, frame.work) is Verdict.COMPUTE:
                self._tasks.start(self._forward(frame, tensor, delivery))
                return
        else:
            verdict = replica.backward(frame.plan, frame.work)
            if verdict is Verdict.COUNT:
                self._member.begin_count(frame.work.step)
            if verdict in (Verdict.COUNT, Verdict.ANSWER):
                self._tasks.start(self._backward(frame, tensor, delivery, count=verdict is Verdict.COUNT))
                return
        delivery.release()

    def _is_early(self, frame: Activation | BoundaryGradient, remote_id: str) -> bool:
        """Whether to hold a frame back: of the first step that we do not count yet, for us, from whom it says."""
        replica = self._member.replica
        next_at_most = frame.work.step <= replica.step + replica.staleness + 1
        for_us = frame.receiver == self._endpoint.peer_id and frame.sender == remote_id
        room = len(self._waiting) < MAX_WAITING
        return replica.is_early(frame.plan, frame.work) and next_at_most and for_us and room

    def _is_ours(self, frame: Activation | BoundaryGradient, remote_id: str) -> bool:
        """Whether the frame is for our stage, from the hop before, on a route of the plan."""
        stages = self._plan.stages
        if frame.plan != self._plan.number or len(frame.route) != len(stages) or frame.owner not in self._plan.owners:
            return False
        if frame.stage != self._member.replica.stage or frame.receiver != self._endpoint.peer_id:
            return False
        if frame.codec != self._codecs.between(frame.sender, frame.receiver):
            return False
        on_plan = all(peer in stage.replicas for peer, stage in zip(frame.route, stages, strict=True))
        return on_plan and frame.sender == remote_id

    async def _forward(self, frame: Activation, hidden: Tensor, delivery: Delivery) -> None:
        onward = self._onward(frame, frame.stage + 1)

        def job() -> memoryview:
            started_s = time.perf_counter()
            output = self._stage.forward(frame.work, hidden)
            if not frame.work.attempt:  # later ones may be answered with what was kept
                self._forward_s = _mean(self._forward_s, time.perf_counter() - started_s)
            return compression.encode(onward.codec, output)

        try:
            payload = await self._compute.run(Priority.FORWARD, job)
        except NonFinite as error:
            self._member.diverged(error.problem)
            return
        except MachineLimit as error:
            self._cannot(frame, error)
            return
        finally:
            delivery.release()
        await self._pass_on(onward, payload)

    async def _backward(self, frame: BoundaryGradient, gradient: Tensor, delivery: Delivery, *, count: bool) -> None:
        onward = self._onward(frame, frame.stage - 1)
        whole = False

        def job() -> memoryview:
            started_s = time.perf_counter()
            input_gradient = self._stage.backward(frame.work, gradient, count=count)
            if not frame.work.attempt:
                self._backward_s = _mean(self._backward_s, time.perf_counter() - started_s)
            return compression.encode(onward.codec, input_gradient, gradient=True)

        try:
            payload = await self._compute.run(Priority.BACKWARD, job)
            whole = True
        except NonFinite as error:
            self._member.diverged(error.problem)
            return
        except MachineLimit as error:
            self._cannot(frame, error)
            return
        finally:
            delivery.release()
            if count:
                await self._member.end_count(frame.work.step, whole=whole)
        if count:
            self.computed_tokens += frame.shape[0] * frame.shape[1]
        await self._pass_on(onward, payload)

    def _onward(self, frame: B, stage: int) -> B:
        """The frame of the next hop."""
        onward = replace(frame, stage=stage)
        return replace(onward, codec=self._codecs.between(onward.sender, onward.receiver))

    def _cannot(self, frame: BoundaryTensor, error: MachineLimit) -> None:
        """The owner goes around us for now."""
        self._hop_failed(frame.owner, HopFailed(work=frame.work, peer=self._endpoint.peer_id, problem=error.problem))

    async def _pass_on(self, onward: BoundaryTensor, payload: memoryview) -> None:
        try:
            await self._endpoint.send(onward.receiver, onward, payload)
        except SwarmError as error:
            if onward.receiver != onward.owner:
                report = HopFailed(work=onward.work, peer=onward.receiver, problem=error.problem)
                self._hop_failed(onward.owner, report)


def _mean(mean: float, value: float) -> float:
    return mean + _SMOOTHING * (value - mean) if mean else value
