"""The strict all-reduce: fenced rounds that give every member the same bits, or an error.

A round is prepared on every member, acknowledged to the leader, then gone with: a member that called another before
it was prepared would be refused. `StrictRounds` is the one servicer of a process; hivemind's handlers are costly to
register, so rounds come and go behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

# typing's, because hivemind reads this annotation and knows no other AsyncIterator.
from typing import AsyncIterator  # noqa: UP035

import torch
from hivemind.p2p import P2P, P2PContext, ServicerBase
from hivemind.proto import averaging_pb2
from hivemind.utils.asyncio import achain, as_aiter

from swarm.errors import RoundBroken
from swarm.net.round_plan import RoundPlan
from swarm.net.strict_runner import LINGER_S, StrictRunner, refusal, require_finite
from swarm.net.traffic import Traffic

__all__ = ["RoundPlan", "StrictRounds"]

FIRST_MESSAGE_TIMEOUT_S = 10.0
_REMEMBERED = 32
"""Rounds that broke, of which late members hear the reason."""


class StrictRounds(ServicerBase):  # type: ignore[misc]
    """All rounds of this process. Make it with `create`."""

    def __init__(self, p2p: P2P, traffic: Traffic) -> None:
        self._p2p = p2p
        self._traffic = traffic
        self._rounds: dict[bytes, StrictRunner] = {}
        self._alone: dict[bytes, list[torch.Tensor]] = {}
        self._expiries: dict[bytes, asyncio.TimerHandle] = {}
        self._broken: dict[bytes, tuple[tuple[str, ...], str]] = {}

    @classmethod
    async def create(cls, p2p: P2P, traffic: Traffic | None = None) -> StrictRounds:
        """Register the handlers, once a process.

        Args:
            p2p: a running daemon's handle.
            traffic: counts the parts that are exchanged.
        """
        self = cls(p2p, traffic or Traffic())
        await self.add_p2p_handlers(p2p)
        return self

    def prepare(self, plan: RoundPlan, tensors: Sequence[torch.Tensor]) -> None:
        """Take part in a round: from now on other members' parts are accepted.

        The round is given up when `go` does not follow within the plan's `reducer_timeout_s`.

        Args:
            plan: the same on every member.
            tensors: this member's, any shapes and float dtypes; neither we nor the caller change them before the end.

        Raises:
            ReductionFailed: the round is known already, is not ours, or the tensors are empty or not finite.
        """
        if plan.round_id in self._rounds or plan.round_id in self._alone:
            raise RoundBroken(f"round {plan.round_id.hex()} is prepared already")
        if self._p2p.peer_id.to_base58() not in plan.members:
            raise RoundBroken(f"round {plan.round_id.hex()} does not have this peer as a member")
        if len(plan.members) == 1 and plan.codec == "fp32":
            # Its own values are the average: a stage's only replica does not pay for an exchange.
            require_finite(tensors, self._p2p.peer_id.to_base58())
            self._alone[plan.round_id] = [tensor.detach().float().cpu() for tensor in tensors]
            return
        self._rounds[plan.round_id] = StrictRunner(self._p2p, type(self), plan, tensors, self._traffic)
        loop = asyncio.get_running_loop()
        self._expiries[plan.round_id] = loop.call_later(plan.reducer_timeout_s, self.abort, plan.round_id)

    async def go(self, round_id: bytes) -> list[torch.Tensor]:
        """Run a prepared round, once all members have acknowledged that they are prepared.

        Args:
            round_id: of the plan given to `prepare`.

        Returns:
            The weighted averages: float32, shaped like the tensors given, the same bits on every member.

        Raises:
            ReductionFailed: anything was missing, wrong or late; a `RoundBroken` names whom to blame. The round is
                over and forgotten.
        """
        if round_id in self._alone:
            return self._alone.pop(round_id)
        runner = self._rounds.get(round_id)
        if runner is None:
            raise RoundBroken(f"round {round_id.hex()} is not prepared here, or was given up")
        self._expiries.pop(round_id).cancel()
        try:
            return [averaged async for averaged in runner]
        except RoundBroken as broken:
            # A member whose stream comes only now must not take this peer for the one that broke the round.
            self._broken[round_id] = runner.members, broken.blamed
            while len(self._broken) > _REMEMBERED:
                del self._broken[next(iter(self._broken))]
            raise
        finally:
            self._rounds.pop(round_id, None)

    def abort(self, round_id: bytes) -> None:
        """Give a round up, prepared or running; other members learn of it from their streams."""
        self._alone.pop(round_id, None)
        runner = self._rounds.pop(round_id, None)
        expiry = self._expiries.pop(round_id, None)
        if expiry is not None:
            expiry.cancel()
        if runner is not None:
            runner.break_off(RoundBroken(f"round {round_id.hex()} was given up here"))

    async def close(self) -> None:
        """Give up all rounds and take the handlers back."""
        for round_id in list(self._rounds):
            self.abort(round_id)
        await self.remove_p2p_handlers(self._p2p)

    async def rpc_aggregate_part(
        self, stream: AsyncIterator[averaging_pb2.AveragingData], context: P2PContext
    ) -> AsyncIterator[averaging_pb2.AveragingData]:
        """Hand an incoming stream to its round, if the round is prepared and the peer is a member of it.

        Args:
            stream: a member's parts; the first message holds the round id.
            context: whose `remote_id` libp2p has authenticated.

        Yields:
            Averages, or one refusal; nothing to a peer that no round here has, or lately had, as a member.
        """
        sender = context.remote_id.to_base58()
        broken = [members for members, _ in self._broken.values()]
        if not any(sender in members for members in (*(each.members for each in self._rounds.values()), *broken)):
            return
        try:
            async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT_S):
                first = await anext(stream, None)
        except TimeoutError:
            return
        runner = None if first is None else self._rounds.get(first.group_id)
        if runner is None or sender not in runner.members:
            members, blamed = ((), "") if first is None else self._broken.get(first.group_id, ((), ""))
            if sender in members:
                yield refusal(averaging_pb2.INTERNAL_ERROR, blamed)
            else:
                # One answer for both: a member of one round does not learn which others there are.
                yield refusal(averaging_pb2.BAD_GROUP_ID)
            await asyncio.sleep(LINGER_S)
            return
        async with aclosing(runner.rpc_aggregate_part(achain(as_aiter(first), stream), context)) as answers:
            async for answer in answers:
                yield answer
