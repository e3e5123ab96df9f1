"""What a plan makes of this peer: a trunk stage to host, a shard's window to drive, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peers.cursor import CursorFile
from peers.host import Host
from peers.member import GroupMember
from peers.owner import Owner
from peers.replica import Replica
from swarm.config import RunConfig
from swarm.data.shards import Shard
from swarm.errors import CheckpointMissing, RunError, SwarmError
from swarm.model.blueprint import Layout
from swarm.model.spans import LayerSpan
from swarm.net.allreduce import StrictRounds
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.plan import Plan
from swarm.tasks import TaskSet
from swarm.training.compute import Compute, Priority
from swarm.training.device import Device
from swarm.training.stage import EndsStage, TrunkStage
from swarm.wire.messages import (
    Activation,
    BoundaryGradient,
    CloseStep,
    CommitStep,
    FetchState,
    GoRound,
    GrantLeases,
    HopFailed,
    ListState,
    PartInfo,
    PeersLost,
    ReopenStep,
    ReplayWork,
    StageReady,
    StateChunk,
    StateList,
)
from swarm.wire.payloads import MAX_CHUNK_BYTES


class Assignment:
    """This peer's groups under the current plan. Made with `build`."""

    def __init__(self, plan: Plan, endpoint: Endpoint) -> None:
        self.plan = plan
        self._endpoint = endpoint
        self._members: dict[int, GroupMember] = {}
        self._host: Host | None = None
        self._owner: Owner | None = None
        self._cursor: CursorFile
        self._tasks = TaskSet()

    @classmethod
    async def build(
        cls,
        *,
        config: RunConfig,
        layout: Layout,
        plan: Plan,
        endpoint: Endpoint,
        compute: Compute,
        device: Device,
        rounds: StrictRounds,
        shard: Shard | None,
        state_dir: Path,
        keep_bytes: int,
        report: Callable[[object], None],
    ) -> Assignment:
        """Materialise this peer's layers, and report each group as ready.

        Args:
            keep_bytes: host memory for boundaries of counted microbatches.
            report: tells the leader.
            Everything else: as the process made it.
        """
        self = cls(plan, endpoint)
        self._cursor = CursorFile(state_dir / f"cursor-{config.fingerprint[:16]}.json")
        for group in plan.groups_of(endpoint.peer_id):
            stage: TrunkStage | EndsStage
            if group == plan.ends_stage:
                stage = await compute.run(Priority.STEP, EndsStage, config, device)
            else:
                planned = plan.stages[group]
                span = LayerSpan(planned.first_layer, planned.last_layer)
                stage = await compute.run(Priority.STEP, TrunkStage, config, device, span, keep_bytes)
            replica = Replica(group, plan.number, plan.first_step)
            member = GroupMember(
                replica,
                stage,
                compute,
                rounds,
                endpoint.peer_id,
                config.fingerprint,
                config.numerics.gradient_codec,
                report,
                partial(self._on_step, group),
            )
            self._members[group] = member
            if isinstance(stage, TrunkStage):
                self._host = Host(config, plan, endpoint, compute, member, stage, self._tell_owner)
            else:
                if shard is None:
                    raise RunError("the plan makes this peer an owner without a shard", "join again with --data PATH")
                self._owner = Owner(
                    config, plan, plan.first_step, shard, self._cursor.load(), endpoint, compute, member, stage, report
                )
            digest = await compute.run(Priority.STEP, stage.digest)
            report(StageReady(plan=plan.number, stage=group, step=plan.first_step, digest=digest))
        return self

    # --- orders ----------------------------------------------------------------------------------------------------

    async def handle(self, order: object) -> None:
        """Carry out one order of the leader."""
        if isinstance(order, CloseStep | GoRound | ReopenStep | CommitStep):
            member = self._members.get(order.stage)
            if member is not None:
                await member.handle(order)
            if self._owner is not None and order.stage == self.plan.ends_stage:
                self._owner.pump()
        elif isinstance(order, GrantLeases | ReplayWork | PeersLost) and self._owner is not None:
            self._owner.handle(order)

    def adopt(self, plan: Plan) -> None:
        """A newer plan with the same spans for this peer holds from the step that is open."""
        self.plan = plan
        if self._owner is not None:
            self._owner.adopt(plan)
        if self._host is not None:
            self._host.adopt(plan)

    def _on_step(self, group: int) -> None:
        if group == self.plan.ends_stage:
            assert self._owner is not None
            self._owner.committed()
            self._cursor.save(self._owner.window.next_cursor)
        else:
            assert self._host is not None
            self._host.wake()

    # --- other peers -----------------------------------------------------------------------------------------------

    def take(self, delivery: Delivery) -> None:
        """A boundary tensor arrived: for our stage, or home."""
        frame = delivery.message
        assert isinstance(frame, Activation | BoundaryGradient)
        is_home = not 0 <= frame.stage < len(frame.route)
        if is_home and self._owner is not None:
            self._owner.take(delivery)
        elif not is_home and self._host is not None:
            self._host.take(delivery)
        else:
            delivery.release()

    def hop_failed(self, report: HopFailed, remote_id: str) -> None:
        """A host of one of our microbatches cannot pass it on."""
        if self._owner is not None and remote_id in {peer for group in self.plan.groups for peer in group}:
            self._owner.hop_failed(report)

    def _tell_owner(self, owner: str, report: HopFailed) -> None:
        self._tasks.start(self._try_to_tell(owner, report))

    async def _try_to_tell(self, owner: str, report: HopFailed) -> None:
        try:
            await self._endpoint.request(owner, report)
        except SwarmError:
            return  # an owner that is gone needs no repair; one that lives notices that the microbatch is overdue

    # --- state -----------------------------------------------------------------------------------------------------

    def list_state(self, request: ListState) -> Reply:
        """Which parts our snapshot has; raises CheckpointMissing."""
        parts = self._snapshot(request)
        infos = tuple(
            PartInfo(name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in sorted(parts.items())
        )
        return Reply(StateList(parts=infos))

    def fetch_state(self, request: FetchState) -> Reply:
        """A piece of one part; raises CheckpointMissing."""
        data = self._snapshot(request).get(request.name)
        if data is None or request.offset > len(data):
            raise CheckpointMissing(f"no part {request.name} from {request.offset} on", "list the parts again")
        return Reply(StateChunk(), memoryview(data)[request.offset : request.offset + MAX_CHUNK_BYTES])

    def _snapshot(self, request: ListState | FetchState) -> dict[str, bytes]:
        member = self._members.get(request.stage)
        if member is None or request.step not in member.snapshots:
            raise CheckpointMissing(
                f"this peer has no snapshot of stage {request.stage} after step {request.step}", "ask another replica"
            )
        return member.snapshots[request.step]

    # --- people ----------------------------------------------------------------------------------------------------

    @property
    def computed_tokens(self) -> int:
        """Tokens whose gradients this peer counted or brought home."""
        total = 0 if self._host is None else self._host.computed_tokens
        return total + (0 if self._owner is None else self._owner.computed_tokens)

    @property
    def waiting_for(self) -> str:
        """In a person's words."""
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
        for group, member in self._members.items():
            if group == self.plan.ends_stage:
                parts.append("data owner")
            else:
                stage = self.plan.stages[group]
                last = stage.last_layer - 1
                layers = f"layer {last}" if stage.first_layer == last else f"layers {stage.first_layer}-{last}"
                parts.append(f"stage {group} ({layers})")
            parts.append(f"step {member.replica.step}")
        tokens = f"{self.computed_tokens:,} tokens"
        return " · ".join([*parts, tokens, f"waits for {self.waiting_for}"])

    async def close(self) -> None:
        """Stop everything that runs."""
        if self._owner is not None:
            await self._owner.close()
        if self._host is not None:
            await self._host.close()
        await self._cursor.close()
        for member in self._members.values():
            member.close()
        await self._tasks.close()
