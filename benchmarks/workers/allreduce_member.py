"""One member of the all-reduce benchmark: a process and a daemon of its own.

Reads JSON lines on standard input and answers each with one on standard output:

    {"do": "start", "member", "weights", "shapes", "seed", "peers"}  -> {"peer_id", "addresses"}
    {"do": "prepare", "runner", "round", "ids"}                      -> {"seconds"}
    {"do": "go", "runner", "round"}                                  -> {"seconds", "error", "digest"} or {"failed"}
    {"do": "forget", "runner", "round"}                              -> {}

Both runners take the same tensors: those of the start, times a small number that differs from round to round, so
that nobody passes with the results of another round.
"""

from __future__ import annotations

import math
import time
from typing import Any, AsyncIterator  # noqa: UP035 - hivemind reads this annotation and knows no other AsyncIterator

import torch
import uvloop
from hivemind.averaging.allreduce import AllReduceRunner
from hivemind.p2p import P2P, P2PContext, PeerID, ServicerBase
from hivemind.proto import averaging_pb2
from hivemind.utils.asyncio import achain, as_aiter

from benchmarks.workers.lines import serve_async
from swarm.errors import ReductionFailed
from swarm.net.allreduce import RoundPlan, StrictRounds
from swarm.wire.digest import digest_of

SENDER_TIMEOUT_S, REDUCER_TIMEOUT_S = 10.0, 20.0


class StockRounds(ServicerBase):  # type: ignore[misc]
    """hivemind's runner behind one registered handler, as `DecentralizedAverager` itself does it."""

    def __init__(self, p2p: P2P) -> None:
        self._p2p = p2p
        self._rounds: dict[bytes, tuple[AllReduceRunner, list[torch.Tensor]]] = {}

    def prepare(self, plan: RoundPlan, tensors: list[torch.Tensor]) -> None:
        """Take part in a round."""
        runner = AllReduceRunner(
            p2p=self._p2p,
            servicer_type=type(self),
            prefix=None,
            group_id=plan.round_id,
            tensors=tensors,
            weight=plan.weights[plan.members.index(self._p2p.peer_id.to_base58())],
            ordered_peer_ids=[PeerID.from_base58(member) for member in plan.members],
            peer_fractions=plan.fractions,
            sender_timeout=plan.sender_timeout_s,
            reducer_timeout=plan.reducer_timeout_s,
        )
        self._rounds[plan.round_id] = runner, tensors

    async def go(self, round_id: bytes) -> list[torch.Tensor]:
        """Run the round; the differences it yields are added, as hivemind's averager does."""
        runner, tensors = self._rounds[round_id]
        differences = [difference async for difference in runner]
        return [own + difference for own, difference in zip(tensors, differences, strict=True)]

    def forget(self, round_id: bytes) -> None:
        """Drop a round that all members have finished."""
        del self._rounds[round_id]

    async def rpc_aggregate_part(
        self, stream: AsyncIterator[averaging_pb2.AveragingData], context: P2PContext
    ) -> AsyncIterator[averaging_pb2.AveragingData]:
        """Hand a stream to its round."""
        first = await anext(stream)
        runner, _ = self._rounds[first.group_id]
        async for answer in runner.rpc_aggregate_part(achain(as_aiter(first), stream), context):
            yield answer


class Member:
    """The state between two lines."""

    _p2p: P2P
    _strict: StrictRounds
    _stock: StockRounds
    _own: list[torch.Tensor]
    _exact: list[torch.Tensor]
    _weights: tuple[float, ...]
    _scale: float

    async def start(self, line: dict[str, Any]) -> dict[str, Any]:
        """Make the tensors of all members, to know the exact average, and start the daemon."""
        generator = torch.Generator().manual_seed(line["seed"])
        members = [[torch.randn(shape, generator=generator) for shape in line["shapes"]] for _ in line["weights"]]
        self._own = members[line["member"]]
        self._weights = tuple(line["weights"])
        self._exact = [
            (
                sum(weight * value.double() for weight, value in zip(self._weights, column, strict=True))
                / math.fsum(self._weights)
            ).float()
            for column in zip(*members, strict=True)
        ]
        self._p2p = await P2P.create(initial_peers=line["peers"], startup_timeout=60)
        self._strict = await StrictRounds.create(self._p2p)
        self._stock = StockRounds(self._p2p)
        await self._stock.add_p2p_handlers(self._p2p)
        addresses = [str(address) for address in await self._p2p.get_visible_maddrs()]
        return {"peer_id": self._p2p.peer_id.to_base58(), "addresses": addresses}

    async def prepare(self, line: dict[str, Any]) -> dict[str, Any]:
        """Prepare a round; only the runner's own work is timed."""
        self._scale = 1.0 + line["round"] % 5
        tensors = [value * self._scale for value in self._own]
        plan = RoundPlan(
            round_id=_round_id(line),
            members=tuple(line["ids"]),
            weights=self._weights,
            fractions=(1.0,) * len(line["ids"]),
            sender_timeout_s=SENDER_TIMEOUT_S,
            reducer_timeout_s=REDUCER_TIMEOUT_S,
        )
        begun = time.perf_counter()
        self._rounds(line).prepare(plan, tensors)
        return {"seconds": time.perf_counter() - begun}

    async def go(self, line: dict[str, Any]) -> dict[str, Any]:
        """Run the prepared round and compare the result with the exact average."""
        begun = time.perf_counter()
        try:
            averages = await self._rounds(line).go(_round_id(line))
        except ReductionFailed as error:
            return {"failed": str(error)}
        except Exception as error:  # noqa: BLE001 - hivemind's runner fails with anything; it is recorded by type
            return {"failed": repr(error)}
        seconds = time.perf_counter() - begun
        errors = [
            float((average - exact * self._scale).abs().max())
            for average, exact in zip(averages, self._exact, strict=True)
        ]
        return {"seconds": seconds, "error": max(errors), "digest": digest_of(averages)}

    async def forget(self, line: dict[str, Any]) -> dict[str, Any]:
        """After all members have finished: late streams of a stock round still need its runner."""
        self._stock.forget(_round_id(line))
        return {}

    def _rounds(self, line: dict[str, Any]) -> StrictRounds | StockRounds:
        return self._strict if line["runner"] == "strict" else self._stock


def _round_id(line: dict[str, Any]) -> bytes:
    return f"{line['runner']}-{line['round']}".encode()


async def main() -> None:
    """Answer lines until standard input ends."""
    torch.set_num_threads(1)
    member = Member()
    await serve_async(
        {
            "start": member.start,
            "prepare": member.prepare,
            "go": member.go,
            "forget": member.forget,
        }
    )


if __name__ == "__main__":
    uvloop.run(main())
