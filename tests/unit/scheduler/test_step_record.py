"""A step's ledger survives its packing, and damage shows."""

from __future__ import annotations

import random
import zlib

import pytest

from scheduler.step_record import pack, unpack
from swarm.errors import ProtocolError
from swarm.wire import codec
from swarm.wire.messages import Ack, Lease, MicrobatchDone, RoundKey, Work

KEY = RoundKey(3, 2)
WORK = tuple(
    (
        f"owner{number % 2}",
        MicrobatchDone(
            work=Work(5, Lease(number, number % 3), number % 4),
            route=(f"a{number % 3}", f"b{number % 2}"),
            tokens=64,
            loss_sum=number / 7,
            cursor=100 + number,
        ),
    )
    for number in range(9)
)


def test_what_is_packed_comes_out() -> None:
    record = unpack(pack(8, 5, KEY, WORK), 0.25)
    assert record.work == WORK
    assert (record.step, record.plan, record.round, record.grad_norm) == (5, 8, 2, 0.25)
    assert record.tokens == 9 * 64
    assert record.loss_sum == pytest.approx(sum(done.loss_sum for _, done in WORK))


def test_it_is_small() -> None:
    work = tuple(
        (owner, MicrobatchDone(work=done.work, route=("x" * 52,) * 2, tokens=64, loss_sum=1.0, cursor=done.cursor))
        for owner, done in WORK * 100
    )
    assert len(pack(8, 5, KEY, work)) < 10 * len(work)


def test_damage_is_refused_and_nothing_is_inflated_without_end() -> None:
    packed = pack(8, 5, KEY, WORK)
    dice = random.Random(1)
    for _ in range(300):
        broken = bytearray(packed)
        broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
        try:
            unpack(bytes(broken), 0.0)
        except ProtocolError:
            continue
    with pytest.raises(ProtocolError, match=r"not msgpack|damaged"):
        unpack(zlib.compress(bytes(1 << 26)), 0.0)
    with pytest.raises(ProtocolError, match="something else"):
        unpack(zlib.compress(codec.encode(Ack())), 0.0)
    with pytest.raises(ProtocolError):
        unpack(b"", 0.0)
