"""One member's side of one strict round: hivemind's butterfly, all or nothing.

Every member sends each other member that member's share of the buffer and gets the averages of that share back on
the same stream. What hivemind's own runner leaves open is closed here:

- A sender holds its stream open until it has every result, and a reducer until the sender has said so: the daemon
  cuts off what is in flight when a stream is closed from one side.
- Results are averages, not differences to the sender's values, and everybody, the reducer included, uses the bytes
  that were sent: replicas are bit-equal.
- Whatever is missing, late or malformed breaks the round for every member; nobody is left out of an average.

Source: hivemind 1.1.12, averaging/allreduce.py (Ryabinin et al., "Moshpit SGD", 2021, section 3.1).
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from typing import TypeVar

import torch
from hivemind.averaging.allreduce import AllReduceRunner, AveragingMode
from hivemind.p2p import P2P, P2PContext, PeerID, ServicerBase
from hivemind.proto import averaging_pb2, runtime_pb2

from swarm.errors import RoundBroken
from swarm.net.reduction_parts import MalformedPartError, OrderedReducer, cut, decode_part, encode_part
from swarm.net.round_plan import RoundPlan
from swarm.net.traffic import Traffic

T = TypeVar("T")

_LEAST_PART_BYTES, _MOST_PART_BYTES = 2**17, 2**19
_PARTS = 32
"""Of a buffer, at least: what one member has averaged travels back while it still receives."""
LINGER_S = 1.0  # how long a refused stream stays open, or the daemon may cut the refusal off
GRACE_S = 0.25  # how long a closed stream waits for a better reason: its peer may have left for another's fault

_OWN_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class StrictRunner(AllReduceRunner):  # type: ignore[misc]
    """A prepared round. Iterate it once: it yields every averaged tensor, or raises before the first.

    Args:
        p2p: whose daemon carries the streams.
        servicer_type: under whose name the handlers are registered.
        plan: checked; this peer is one of its members.
        tensors: of any shapes, not modified; a float32 copy is kept until the round is over.
        traffic: counts and paces the parts that are exchanged.

    Raises:
        RoundBroken: there is nothing to average, or a value is not finite.
    """

    def __init__(
        self,
        p2p: P2P,
        servicer_type: type[ServicerBase],
        plan: RoundPlan,
        tensors: Sequence[torch.Tensor],
        traffic: Traffic,
    ) -> None:
        self._plan = plan
        self._traffic = traffic
        self._shapes = [tensor.shape for tensor in tensors]
        flat = _flatten(tensors, blamed=p2p.peer_id.to_base58())
        shares = cut(flat.numel(), plan.fractions)
        super().__init__(
            p2p=p2p,
            servicer_type=servicer_type,
            prefix=None,
            group_id=plan.round_id,
            # One tensor a member: parts then end where shares end. Nobody is in client mode, even with no share:
            # client-mode peers send everything before they read, which deadlocks with streams held open.
            tensors=[share for share in torch.split(flat, shares) if share.numel()],
            peer_fractions=tuple(float(share) for share in shares),
            modes=[AveragingMode.NODE] * len(shares),
            ordered_peer_ids=[PeerID.from_base58(member) for member in plan.members],
            weight=plan.weights[plan.members.index(p2p.peer_id.to_base58())],
            sender_timeout=plan.sender_timeout_s,
            reducer_timeout=plan.reducer_timeout_s,
            part_size_bytes=max(_LEAST_PART_BYTES, min(_MOST_PART_BYTES, flat.nbytes // _PARTS)),
        )
        self.tensor_part_reducer.num_parts = 0  # the ordered one sums instead; this one would warn of missing parts
        self._me: int = self.ordered_peer_ids.index(self.peer_id)
        self._parts: list[tuple[torch.Tensor, ...]] = [
            self.parts_for_local_averaging
            if index == self._me
            else self.tensor_part_container.get_raw_input_parts(index)
            for index in range(self.group_size)
        ]
        sizes = [part.numel() for part in itertools.chain(*self._parts)]
        self._averages = torch.empty_like(flat)
        results = iter(torch.split(self._averages, sizes))
        self._results = [tuple(itertools.islice(results, len(parts))) for parts in self._parts]
        self._reducer = OrderedReducer(plan.weights, plan.codec)
        self._broken: RoundBroken | None = None
        self._deadlines: set[asyncio.Timeout] = set()
        self._unfinished_senders = set(self.ordered_peer_ids) - {self.peer_id} if self._parts[self._me] else set()
        self._all_senders_finished = asyncio.Event()
        if not self._unfinished_senders:
            self._all_senders_finished.set()
            self.all_senders_started.set()

    @property
    def members(self) -> tuple[str, ...]:
        """Their base58 ids, in order."""
        return self._plan.members

    def break_off(self, broken: RoundBroken) -> None:
        """End the round: whoever waits here fails at once, and every open stream is refused with the reason.

        The first reason counts; later ones are its consequences.
        """
        if self._broken is not None:
            return
        self._broken = broken
        self._reducer.break_off(broken)
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            if not deadline.expired():
                deadline.reschedule(now)

    async def run(self) -> AsyncIterator[torch.Tensor]:
        """Exchange everything, then yield the averages.

        Yields:
            float32 tensors, shaped like the ones given.

        Raises:
            RoundBroken: anything was missing, wrong or late.
        """
        try:
            await self._exchange()
        except asyncio.CancelledError:
            self.break_off(RoundBroken("the round was cancelled here", self.peer_id.to_base58()))
            raise
        sizes = [shape.numel() for shape in self._shapes]
        for values, shape in zip(torch.split(self._averages, sizes), self._shapes, strict=True):
            yield values.view(shape)

    async def _exchange(self) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._handle_missing_senders())
                for peer_id, parts in zip(self.ordered_peer_ids, self._parts, strict=True):
                    if parts:
                        group.create_task(self._communicate_with_peer(peer_id))
        except ExceptionGroup as errors:
            raise self._broken or RoundBroken(f"the round failed ({errors.exceptions[0]!r})") from errors
        try:
            await self._bounded(self._all_senders_finished.wait(), self._plan.reducer_timeout_s)
        except TimeoutError:
            late = min(self._unfinished_senders)
            self.break_off(RoundBroken(f"{late} did not acknowledge its averages in time", late.to_base58()))
        if self._broken is not None:
            raise self._broken

    async def _ban_sender(self, peer_id: PeerID) -> None:
        """Called by hivemind for a sender that never started: a hole, so the end of the round."""
        self.break_off(RoundBroken(f"{peer_id} sent nothing in {self.sender_timeout} s", peer_id.to_base58()))

    async def _communicate_with_peer(self, peer_id: PeerID) -> None:
        """Send a member its share of our values and store the averages it returns; our own share is summed here."""
        index = self.ordered_peer_ids.index(peer_id)
        try:
            if index == self._me:
                await self._average_own_share()
            else:
                await self._average_at(peer_id, index)
        except TimeoutError:
            blamed = peer_id
            if index == self._me and self._reducer.missing:
                blamed = self.ordered_peer_ids[self._reducer.missing[0]]
            self.break_off(RoundBroken(f"{blamed} was silent for {self.reducer_timeout} s", blamed.to_base58()))
        except MalformedPartError as error:
            self.break_off(RoundBroken(f"{peer_id} sent {error}", peer_id.to_base58()))
        except RoundBroken as broken:
            self.break_off(broken)
        except Exception as error:  # noqa: BLE001 - whatever the daemon's client raises, it is a hole
            await asyncio.sleep(GRACE_S)
            is_ours = isinstance(error, OSError) and error.errno in _OWN_LIMITS
            blamed = self.peer_id if is_ours else peer_id
            self.break_off(RoundBroken(f"the stream to {peer_id} failed ({error!r})", blamed.to_base58()))
        if self._broken is not None:
            raise self._broken

    async def _average_own_share(self) -> None:
        for values, result in zip(self._parts[self._me], self._results[self._me], strict=True):
            averaged = await self._bounded(self._reducer.average(self._me, values), self._plan.reducer_timeout_s)
            # Through the transported form, as everybody else: that is what makes replicas bit-equal.
            result.copy_(decode_part(self._plan.codec, averaged, result.numel()))

    async def _average_at(self, peer_id: PeerID, index: int) -> None:
        have_all = asyncio.Event()
        call = self._get_peer_stub(peer_id).rpc_aggregate_part(self._send_share(index, have_all))
        async with aclosing(await self._bounded(call, self._plan.reducer_timeout_s)) as answers:
            for count, result in enumerate(self._results[index]):
                answer = await self._bounded(anext(answers, None), self._plan.reducer_timeout_s)
                if answer is None:
                    await self._bounded(asyncio.sleep(GRACE_S), self._plan.reducer_timeout_s)
                    raise self._ended(peer_id, f"averages of {count} of {len(self._results[index])} parts")
                self._raise_if_refused(answer, peer_id)
                await self._traffic.receive(answer.tensor_part.ByteSize())
                result.copy_(decode_part(self._plan.codec, answer.tensor_part, result.numel()))
            have_all.set()
            extra = await self._bounded(anext(answers, None), self._plan.reducer_timeout_s)
            if extra is not None:
                self._raise_if_refused(extra, peer_id)
                raise RoundBroken(f"{peer_id} sent more averages than parts", peer_id.to_base58())

    async def _send_share(self, index: int, have_all: asyncio.Event) -> AsyncIterator[averaging_pb2.AveragingData]:
        """Yield the parts, then hold the stream open until the averages are here: its end acknowledges them."""
        for values in self._parts[index]:
            part = encode_part(self._plan.codec, values)
            await self._traffic.send(part.ByteSize())
            yield averaging_pb2.AveragingData(
                code=averaging_pb2.PART_FOR_AVERAGING,
                group_id=self.group_id,
                tensor_part=part,
                weight=self.weight,
            )
        await have_all.wait()

    def _raise_if_refused(self, answer: averaging_pb2.AveragingData, peer_id: PeerID) -> None:
        if answer.code == averaging_pb2.AVERAGED_PART:
            return
        reason = averaging_pb2.MessageCode.Name(answer.code)
        blamed = answer.peer_id.decode("ascii", "replace")
        if blamed in self._plan.members and blamed != peer_id.to_base58():
            raise RoundBroken(f"{blamed} broke the round, says {peer_id} ({reason})", blamed)
        raise RoundBroken(f"{peer_id} refused our parts ({reason})", peer_id.to_base58())

    async def rpc_aggregate_part(
        self, stream: AsyncIterator[averaging_pb2.AveragingData], context: P2PContext
    ) -> AsyncGenerator[averaging_pb2.AveragingData, None]:
        """Average a member's parts with everybody's and answer with the averages.

        Args:
            stream: that member's share for us, one part a message.
            context: whose `remote_id` is a member of this round (checked by `StrictRounds`).

        Yields:
            One average a part; or one refusal, naming the member to blame.
        """
        sender = context.remote_id
        try:
            if sender in self.active_senders:
                raise RoundBroken(f"{sender} opened a second stream", sender.to_base58())
            self.active_senders.add(sender)
            if len(self.active_senders) == self.group_size:
                self.all_senders_started.set()
            async with aclosing(self._average_for(stream, sender)) as averages:
                async for averaged in averages:
                    await self._traffic.send(averaged.ByteSize())
                    yield averaging_pb2.AveragingData(code=averaging_pb2.AVERAGED_PART, tensor_part=averaged)
        except RoundBroken as broken:
            self.break_off(broken)
            yield refusal(averaging_pb2.INTERNAL_ERROR, broken.blamed)
            await asyncio.sleep(LINGER_S)
        except (asyncio.CancelledError, GeneratorExit):
            gone = self._ended(sender, "its stream only in part")
            asyncio.get_running_loop().call_later(GRACE_S, self.break_off, gone)
            raise

    async def _average_for(
        self, stream: AsyncIterator[averaging_pb2.AveragingData], sender: PeerID
    ) -> AsyncGenerator[runtime_pb2.Tensor, None]:
        index = self.ordered_peer_ids.index(sender)
        own_parts = self._parts[self._me]
        try:
            for count, own in enumerate(own_parts):
                message = await self._bounded(anext(stream, None), self._plan.sender_timeout_s)
                if message is None:
                    raise self._ended(sender, f"{count} of {len(own_parts)} parts")
                self._check_weight(message, index)
                await self._traffic.receive(message.tensor_part.ByteSize())
                values = decode_part(self._plan.codec, message.tensor_part, own.numel())
                yield await self._reducer.average(index, values)
            if await self._bounded(anext(stream, None), self._plan.reducer_timeout_s) is not None:
                raise RoundBroken(f"{sender} sent more than {len(own_parts)} parts", sender.to_base58())
        except TimeoutError:
            raise RoundBroken(f"{sender} was silent for too long", sender.to_base58()) from None
        except MalformedPartError as error:
            raise RoundBroken(f"{sender} sent {error}", sender.to_base58()) from None
        self._unfinished_senders.discard(sender)
        if not self._unfinished_senders:
            self._all_senders_finished.set()

    def _check_weight(self, message: averaging_pb2.AveragingData, index: int) -> None:
        expected = self._plan.weights[index]
        if message.code != averaging_pb2.PART_FOR_AVERAGING or message.group_id != self.group_id:
            raise MalformedPartError("a message that is no part of this round")
        if message.weight != expected:
            raise MalformedPartError(f"weight {message.weight} where the ledger says {expected}")

    def _ended(self, peer_id: PeerID, what: str) -> RoundBroken:
        return RoundBroken(f"{peer_id} sent {what} and was gone", peer_id.to_base58())

    async def _bounded(self, awaitable: Awaitable[T], timeout_s: float) -> T:
        """Wait for a peer, but not past the deadline, nor past the end of the round.

        Raises:
            TimeoutError: the deadline.
            RoundBroken: the round ended meanwhile.
        """
        # A broken round still starts the wait: a stream that was never read from is never closed.
        deadline = asyncio.timeout(0 if self._broken is not None else timeout_s)
        try:
            async with deadline:
                self._deadlines.add(deadline)
                return await awaitable
        except TimeoutError:
            if self._broken is not None:
                raise self._broken from None
            raise
        finally:
            self._deadlines.discard(deadline)


def refusal(code: int, blamed: str = "") -> averaging_pb2.AveragingData:
    """The one message that ends a stream early.

    Args:
        code: hivemind's message code.
        blamed: base58 id of the member the round broke on, if known.
    """
    return averaging_pb2.AveragingData(code=code, peer_id=blamed.encode())


def require_finite(tensors: Sequence[torch.Tensor], blamed: str) -> None:
    """Raises RoundBroken where there is nothing to average, or a value is not finite."""
    values = [tensor for tensor in tensors if tensor.numel()]
    if not values:
        raise RoundBroken("there is nothing to average", blamed)
    if not all(bound.isfinite() for tensor in values for bound in torch.aminmax(tensor)):
        raise RoundBroken("our own tensors hold a value that is not finite", blamed)


def _flatten(tensors: Sequence[torch.Tensor], blamed: str) -> torch.Tensor:
    require_finite(tensors, blamed)
    return torch.cat([tensor.detach().reshape(-1).float().cpu() for tensor in tensors])
