"""The strict all-reduce over real daemons: the exact average for all, or an error for all."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import uvloop
from hivemind.p2p import P2P
from hivemind.proto import averaging_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import ProtocolError, ReductionFailed, RoundBroken
from swarm.net.allreduce import RoundPlan, StrictRounds
from swarm.net.reduction_parts import MalformedPartError, cut, decode_part, encode_part
from swarm.wire.digest import digest_of

SHAPES = [(300, 401), (7,), (), (50_000,)]
SEVERAL_PARTS = [(900_000,)]
PROMPT_S = 3.0
"""Failures that are seen, not waited for, come well before the timeouts below."""


@dataclass
class Group:
    """Members with a daemon each, in one process."""

    p2ps: list[P2P]
    rounds: list[StrictRounds]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(p2p.peer_id.to_base58() for p2p in self.p2ps)

    def plan(self, name: bytes = b"round", **changes: Any) -> RoundPlan:
        size = len(self.p2ps)
        plan = RoundPlan(
            round_id=name,
            members=self.ids,
            weights=tuple(100.0 * (index + 1) for index in range(size)),
            fractions=(1.0,) * size,
            sender_timeout_s=10.0,
            reducer_timeout_s=20.0,
        )
        return replace(plan, **changes)


@asynccontextmanager
async def group_of(size: int) -> AsyncIterator[Group]:
    p2ps: list[P2P] = []
    for _ in range(size):  # each new daemon connects to all before it: there is no DHT to find one another here
        addresses = [address for p2p in p2ps for address in await p2p.get_visible_maddrs()]
        p2ps.append(await P2P.create(initial_peers=addresses))
    try:
        yield Group(p2ps, [await StrictRounds.create(p2p) for p2p in p2ps])
    finally:
        for p2p in p2ps:
            await p2p.shutdown()


def run(test: Coroutine[Any, Any, None]) -> None:
    torch.set_num_threads(1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(test, 120))


def values_of(member: int, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(member)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def exact_mean(tensors: list[list[torch.Tensor]], weights: Sequence[float]) -> list[torch.Tensor]:
    total = sum(weights)
    return [
        sum(w * t.double() for w, t in zip(weights, column, strict=True)) / total  # type: ignore[misc]
        for column in zip(*tensors, strict=True)
    ]


async def outcome(work: Awaitable[list[torch.Tensor]]) -> list[torch.Tensor] | ReductionFailed:
    try:
        return await work
    except ReductionFailed as error:
        return error


async def average(group: Group, plan: RoundPlan, tensors: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    for rounds, own in zip(group.rounds, tensors, strict=True):
        rounds.prepare(plan, own)
    return list(await asyncio.gather(*(rounds.go(plan.round_id) for rounds in group.rounds)))


def assert_averaged(
    results: list[list[torch.Tensor]], tensors: list[list[torch.Tensor]], weights: Sequence[float], codec: str
) -> None:
    assert len({digest_of(result) for result in results}) == 1
    tolerance = 1e-6 if codec == "fp32" else 2e-3
    for ours, exact in zip(results[0], exact_mean(tensors, weights), strict=True):
        assert ours.shape == exact.shape
        torch.testing.assert_close(ours.double(), exact, rtol=tolerance, atol=tolerance)


def test_averages_are_exact_and_bit_equal() -> None:
    async def scenario() -> None:
        async with group_of(3) as group:
            tensors = [values_of(member) for member in range(3)]
            before = [digest_of(own) for own in tensors]
            for codec in ("fp32", "fp16"):
                plan = group.plan(codec.encode(), codec=codec, fractions=(1.0, 5.0, 2.5))
                assert_averaged(await average(group, plan, tensors), tensors, plan.weights, codec)
            repeated = [await average(group, group.plan(name), tensors) for name in (b"one", b"two")]
            assert len({digest_of(result[0]) for result in repeated}) == 1
            assert [digest_of(own) for own in tensors] == before
            assert not any(rounds._rounds or rounds._expiries for rounds in group.rounds)

    run(scenario())


def test_tiny_scales_survive_fp16_and_weight_zero_counts_nothing() -> None:
    async def scenario() -> None:
        async with group_of(3) as group:
            for scale in (1e-12, 1e9):
                tensors = [[value * scale for value in values_of(member)] for member in range(3)]
                plan = group.plan(str(scale).encode(), codec="fp16", weights=(4096.0, 0.0, 1024.0))
                results = await average(group, plan, tensors)
                for ours, exact in zip(results[0], exact_mean(tensors, plan.weights), strict=True):
                    torch.testing.assert_close(ours.double() / scale, exact / scale, rtol=2e-3, atol=2e-3)

    run(scenario())


@pytest.mark.parametrize("codec", ["fp32", "fp16"])
def test_a_single_member_gets_its_own_values_through_the_codec(codec: str) -> None:
    async def scenario() -> None:
        async with group_of(1) as group:
            tensors = [values_of(0)]
            assert_averaged(await average(group, group.plan(codec=codec), tensors), tensors, (1.0,), codec)

    run(scenario())


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_shapes_weights_and_fractions(data: st.DataObject) -> None:
    shapes = data.draw(
        st.lists(st.sampled_from([(), (1,), (3, 5), (0, 4), (2, 1, 7), (9000,), (140_000,)]), min_size=1)
    )
    if not sum(torch.Size(shape).numel() for shape in shapes):
        shapes.append((1,))
    weights = data.draw(st.tuples(*[st.sampled_from([0.0, 1.0, 7.0, 4096.0, 1e6])] * 3).filter(any))
    fractions = data.draw(st.tuples(*[st.floats(1e-3, 1e3)] * 3))
    codec = data.draw(st.sampled_from(["fp32", "fp16"]))

    async def scenario() -> None:
        tensors = [values_of(member, shapes) for member in range(3)]
        plan = _shared.plan(os.urandom(8), weights=weights, fractions=fractions, codec=codec)
        assert_averaged(await average(_shared, plan, tensors), tensors, weights, codec)

    _runner.run(scenario())


_runner: asyncio.Runner
_shared: Group


@pytest.fixture(scope="module", autouse=True)
def _daemons_to_share() -> Any:
    """Three daemons for all examples and all lies: a broken round leaves nothing behind that harms the next."""
    torch.set_num_threads(1)
    global _runner, _shared
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
        context = group_of(3)
        _shared = _runner.run(context.__aenter__())
        yield
        _runner.run(context.__aexit__(None, None, None))


Message = averaging_pb2.AveragingData
Forge = Callable[[list[Message]], list[Message]]


def _part(values: torch.Tensor, plan: RoundPlan, weight: float) -> Message:
    return Message(
        code=averaging_pb2.PART_FOR_AVERAGING,
        group_id=plan.round_id,
        weight=weight,
        tensor_part=encode_part(plan.codec, values),
    )


def _weighing(weight: float) -> Forge:
    def forge(messages: list[Message]) -> list[Message]:
        assert messages[-1].weight != weight
        messages[-1].weight = weight
        return messages

    return forge


def _not_a_number(messages: list[Message]) -> list[Message]:
    nan = torch.tensor([float("nan")]).numpy().tobytes()
    messages[-1].tensor_part.buffer = nan + messages[-1].tensor_part.buffer[4:]
    return messages


def _shape(messages: list[Message]) -> list[Message]:
    part = messages[-1].tensor_part
    del part.size[:]
    part.size.extend([len(part.buffer) // 8, 2])
    return messages


def _length(messages: list[Message]) -> list[Message]:
    messages[-1].tensor_part.buffer = messages[-1].tensor_part.buffer[:-4]
    return messages


def _dtype(messages: list[Message]) -> list[Message]:
    messages[-1].tensor_part.dtype = "int32"
    return messages


FORGERIES: dict[str, Forge] = {
    **{f"weight {weight}": _weighing(weight) for weight in (1e30, float("nan"), -1.0, 0.0, 4.5)},
    "nan": _not_a_number,
    "shape": _shape,
    "length": _length,
    "dtype": _dtype,
    "a part too few": lambda messages: messages[:-1],
    "a part too many": lambda messages: [*messages, messages[-1]],
}


async def _lie(group: Group, plan: RoundPlan, forge: Forge, delivered: asyncio.Event) -> list[Message]:
    """As the last member, send forged parts to the first one; its answers come back."""
    liar, victim = group.p2ps[-1], group.p2ps[0]
    own = values_of(len(group.p2ps) - 1, SEVERAL_PARTS)[0]
    share = own[: cut(own.numel(), plan.fractions)[0]]
    honest = [_part(values, plan, plan.weights[-1]) for values in share.split(2**17)]

    async def messages() -> AsyncIterator[Message]:
        for message in forge(honest):
            yield message
        delivered.set()

    answers = await StrictRounds.get_stub(liar, victim.peer_id).rpc_aggregate_part(messages())
    return [answer async for answer in answers]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_lying_member_breaks_the_round_for_all_and_is_named(forgery: str) -> None:
    """Row 18: weights 1e30, NaN, -1 and 0, and wrong-shaped parts; never a wrong average."""

    async def scenario(group: Group) -> None:
        plan, delivered = group.plan(forgery.encode()), asyncio.Event()
        for member, rounds in enumerate(group.rounds):
            rounds.prepare(plan, values_of(member, SEVERAL_PARTS))
        honest = [asyncio.create_task(outcome(rounds.go(plan.round_id))) for rounds in group.rounds[:2]]
        begun = time.monotonic()
        await _lie(group, plan, FORGERIES[forgery], delivered)
        results = await asyncio.gather(*honest)
        assert delivered.is_set()
        assert time.monotonic() - begun < PROMPT_S
        assert [getattr(result, "blamed", result) for result in results] == [group.ids[2]] * 2, results
        group.rounds[2].abort(plan.round_id)
        await _survivors_go_on(group)

    _runner.run(scenario(_shared))


def test_who_comes_when_the_round_is_over_hears_who_broke_it() -> None:
    async def scenario(group: Group) -> None:
        plan = group.plan(b"over")
        for member, rounds in enumerate(group.rounds):
            rounds.prepare(plan, values_of(member, SEVERAL_PARTS))
        first = asyncio.create_task(outcome(group.rounds[0].go(plan.round_id)))
        await _lie(group, plan, FORGERIES["a part too few"], asyncio.Event())
        assert getattr(await first, "blamed", "") == group.ids[2]
        assert plan.round_id not in group.rounds[0]._rounds, "it has forgotten the round itself"
        late = await outcome(group.rounds[1].go(plan.round_id))
        assert getattr(late, "blamed", late) == group.ids[2], late
        group.rounds[2].abort(plan.round_id)

    _runner.run(scenario(_shared))


async def _survivors_go_on(group: Group) -> None:
    left = Group(group.p2ps[:2], group.rounds[:2])
    tensors = [values_of(member) for member in range(2)]
    plan = left.plan(os.urandom(8))
    assert_averaged(await average(left, plan, tensors), tensors, plan.weights, plan.codec)


def test_a_member_killed_in_mid_round() -> None:
    async def scenario() -> None:
        async with group_of(3) as group:
            shapes = [(8_000_000,)]
            plan = group.plan()
            for rounds, own in zip(group.rounds, (values_of(m, shapes) for m in range(3)), strict=True):
                rounds.prepare(plan, own)
            going = [asyncio.create_task(outcome(rounds.go(plan.round_id))) for rounds in group.rounds]
            victim = group.rounds[0]._rounds[plan.round_id]
            while not victim._results[2][0].any():  # noqa: ASYNC110 - until an average of the one who dies is here
                await asyncio.sleep(0.001)
            assert not any(task.done() for task in going)
            os.kill(group.p2ps[2]._child.pid, signal.SIGKILL)
            begun = time.monotonic()
            results = await asyncio.gather(*going[:2])
            assert time.monotonic() - begun < PROMPT_S
            assert all(isinstance(result, ReductionFailed) for result in results), results
            assert any(isinstance(result, RoundBroken) and result.blamed == group.ids[2] for result in results), results
            await _survivors_go_on(group)
            await going[2]

    run(scenario())


def test_strangers_get_no_answer_and_unknown_rounds_are_refused() -> None:
    async def scenario() -> None:
        async with group_of(3) as group:
            pair = group.plan(b"pair", members=group.ids[:2], weights=(1.0, 1.0), fractions=(1.0, 1.0))
            for index in range(2):
                group.rounds[index].prepare(pair, values_of(index))
            for caller, plan, answered in ((2, pair, False), (1, group.plan(b"unknown"), True)):
                stub = StrictRounds.get_stub(group.p2ps[caller], group.p2ps[0].peer_id)
                answers = await stub.rpc_aggregate_part(_one(_part(torch.ones(10), plan, 1.0)))
                heard = []
                with suppress(ConnectionResetError):  # the stream may go while we are still writing to it
                    async for message in answers:
                        heard.append(message.code)
                assert heard == ([averaging_pb2.BAD_GROUP_ID] if answered else [])
            with pytest.raises(ReductionFailed):
                group.rounds[2].prepare(pair, values_of(2))
            with pytest.raises(ReductionFailed):
                await group.rounds[2].go(b"unknown")
            results = await asyncio.gather(*(rounds.go(b"pair") for rounds in group.rounds[:2]))
            assert_averaged(list(results), [values_of(0), values_of(1)], (1.0, 1.0), "fp32")

    run(scenario())


async def _one(message: Message) -> AsyncIterator[Message]:
    yield message
    await asyncio.sleep(PROMPT_S)


def test_a_silent_member_an_abort_and_an_unused_preparation_end_the_round() -> None:
    async def scenario() -> None:
        async with group_of(2) as group:
            late = group.plan(b"late", sender_timeout_s=0.3, reducer_timeout_s=0.6)
            for index, rounds in enumerate(group.rounds):
                rounds.prepare(late, values_of(index))
            result = await outcome(group.rounds[0].go(b"late"))
            assert isinstance(result, RoundBroken)
            assert result.blamed == group.ids[1]
            await asyncio.sleep(0.7)
            assert not any(rounds._rounds or rounds._expiries for rounds in group.rounds)

            plan = group.plan(b"aborted")
            for index, rounds in enumerate(group.rounds):
                rounds.prepare(plan, values_of(index))
            going = asyncio.create_task(outcome(group.rounds[0].go(b"aborted")))
            await asyncio.sleep(0.2)
            group.rounds[1].abort(b"aborted")
            assert isinstance(await asyncio.wait_for(going, PROMPT_S), ReductionFailed)
            await group.rounds[1].close()

    run(scenario())


def test_what_cannot_be_prepared() -> None:
    async def scenario() -> None:
        async with group_of(1) as group:
            rounds = group.rounds[0]
            with pytest.raises(ReductionFailed, match="not finite"):
                rounds.prepare(group.plan(), [torch.tensor([1.0, float("inf")])])
            with pytest.raises(ReductionFailed, match="nothing"):
                rounds.prepare(group.plan(), [torch.empty(0)])
            rounds.prepare(group.plan(), [torch.ones(3)])
            with pytest.raises(ReductionFailed, match="already"):
                rounds.prepare(group.plan(), [torch.ones(3)])
            for change in (
                {"weights": (0.0,)},
                {"weights": (-1.0,)},
                {"weights": (float("nan"),)},
                {"fractions": (0.0,)},
                {"weights": (1.0, 1.0)},
                {"codec": "int8"},
                {"reducer_timeout_s": 1.0},
                {"members": ()},
                {"round_id": b""},
            ):
                with pytest.raises(ProtocolError):
                    group.plan(**change)

    run(scenario())


@given(num_values=st.integers(0, 10**6), fractions=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_a_cut_is_whole_and_in_proportion(num_values: int, fractions: list[float]) -> None:
    sizes = cut(num_values, fractions)
    assert sum(sizes) == num_values
    for size, fraction in zip(sizes, fractions, strict=True):
        assert abs(size - num_values * fraction / sum(fractions)) <= 1.01


def test_fp16_parts_keep_their_stated_error_and_reject_wild_scales() -> None:
    for scale in (1e-44, 1e-30, 1.0, 3e38):
        values = torch.linspace(-1, 1, 1001) * scale
        back = decode_part("fp16", encode_part("fp16", values), 1001)
        bound = torch.maximum(values.abs().double() * 2**-11, torch.tensor(scale * 2.0**-39, dtype=torch.float64))
        assert bool(((back.double() - values.double()).abs() <= bound).all()) or scale < 1e-40
    message = encode_part("fp16", torch.ones(4))
    message.buffer = message.buffer[:-4] + (200).to_bytes(4, "little")
    with pytest.raises(MalformedPartError, match="scaled"):
        decode_part("fp16", message, 4)
