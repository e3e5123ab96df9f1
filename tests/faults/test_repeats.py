"""Row 19: microbatches and gradients that come a hundred times are counted once."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from peers.host import Host
from peers.member import GroupMember
from peers.replica import Replica
from swarm.config import NumericsConfig
from swarm.model.spans import LayerSpan
from swarm.net.channel import Delivery
from swarm.net.endpoint import Endpoint
from swarm.training.compute import Compute
from swarm.training.device import Device
from swarm.training.stage import TrunkStage
from swarm.wire import compression
from swarm.wire.messages import Activation, BoundaryGradient, Lease, Work
from tests.support import plans
from tests.support.net import SHAPE, Net
from tests.support.tiny_models import run_config

NUM_REPEATS = 100
CONFIG = dataclasses.replace(
    run_config(hidden_size=SHAPE[-1]), numerics=NumericsConfig(precision="fp32", boundary_codec="fp32")
)
WORK = Work(0, Lease(0, 0), 0)
HIDDEN = torch.linspace(-1, 1, 256).reshape(SHAPE)
GRADIENT = torch.linspace(1, -2, 256).reshape(SHAPE)
NUM_TOKENS = SHAPE[0] * SHAPE[1]


def stage() -> TrunkStage:
    return TrunkStage(CONFIG, Device("cpu", "fp32"), LayerSpan(1, 2), 1 << 20)


def counted_once() -> list[torch.Tensor]:
    single = stage()
    single.forward(WORK, HIDDEN)
    single.backward(WORK, GRADIENT, count=True)
    return single.mean_gradient(0, NUM_TOKENS)


class Rig:
    """An owner and a real host of the only stage, on a network in memory."""

    def __init__(self, owner: Endpoint, endpoint: Endpoint, compute: Compute) -> None:
        self.owner, self.host_id = owner, endpoint.peer_id
        self.came_home: asyncio.Queue[object] = asyncio.Queue()
        self.num_arrived = 0
        self._arrivals: asyncio.Queue[object] = asyncio.Queue()
        self.stage = stage()
        place: Any = SimpleNamespace(
            config=CONFIG,
            endpoint=endpoint,
            compute=compute,
            peer_id=endpoint.peer_id,
            shelf=None,
            archive=None,
            rounds=None,
            report=None,
        )
        plan = plans.plan([endpoint.peer_id], owners=[owner.peer_id])
        self.replica = Replica(0, plan.number, 0)
        member = GroupMember(self.replica, self.stage, (1, 2), place, lambda: None)
        self.host = Host(place, plan, member, self.stage, lambda owner, report: None)
        for kind in (Activation, BoundaryGradient):
            endpoint.on_frame(kind, self._take)
            owner.on_frame(kind, self._home)

    def _take(self, delivery: Delivery) -> None:
        self.host.take(delivery)
        self._arrivals.put_nowait(delivery.message)

    def _home(self, delivery: Delivery) -> None:
        self.came_home.put_nowait(delivery.message)
        delivery.release()

    async def send(self, kind: type[Activation] | type[BoundaryGradient], work: Work, repeats: int) -> None:
        """One frame and its repeats; returns when the last has been looked at, and the answer came home."""
        frame = kind(
            plan=1,
            work=work,
            stage=0,
            owner=self.owner.peer_id,
            route=(self.host_id,),
            codec="fp32",
            shape=SHAPE,
        )
        payload = compression.encode("fp32", HIDDEN if kind is Activation else GRADIENT)
        for _ in range(1 + repeats):
            await self.owner.send(self.host_id, frame, payload)
        assert isinstance(await self.came_home.get(), kind)
        for _ in range(1 + repeats):
            assert await self._arrivals.get() == frame
            self.num_arrived += 1


def test_a_microbatch_and_a_gradient_replayed_a_hundred_times_are_counted_once(tmp_path: Path) -> None:
    """Row 19: through a real host, its books and its sums; then the whole way again, as a replay."""

    async def body() -> None:
        net = Net("memory", tmp_path)
        compute = Compute(1)
        rig = Rig(await net.endpoint(("owner",)), await net.endpoint(("host",)), compute)
        await rig.send(Activation, WORK, NUM_REPEATS)
        await rig.send(BoundaryGradient, WORK, NUM_REPEATS)
        assert rig.num_arrived == 2 * (1 + NUM_REPEATS), "the fault fired"
        assert rig.replica.refused == 2 * NUM_REPEATS
        for attempt in range(1, 4):
            again = dataclasses.replace(WORK, attempt=attempt)
            await rig.send(Activation, again, 0)
            await rig.send(BoundaryGradient, again, 0)
        assert rig.came_home.empty()
        assert rig.host.computed_tokens == NUM_TOKENS
        found = rig.stage.mean_gradient(0, NUM_TOKENS)
        assert all(torch.equal(one, other) for one, other in zip(found, counted_once(), strict=True))
        await rig.host.close()
        for endpoint in net.endpoints:
            await endpoint.close()
        compute.close()

    async def main() -> None:
        async with asyncio.timeout(60):
            await body()

    asyncio.run(main())
