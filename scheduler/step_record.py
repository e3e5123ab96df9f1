"""A step's ledger in a few bytes: owners keep it from the preparing of its round on, so that it outlives its leader."""

from __future__ import annotations

import math
import zlib

from scheduler.instructions import Record
from swarm.errors import ProtocolError
from swarm.wire import codec
from swarm.wire.messages import Lease, MicrobatchDone, RecordEntry, RoundKey, StepRecord, Work

Done = tuple[tuple[str, MicrobatchDone], ...]
"""Owner and report of every microbatch."""

_MOST_BYTES = 16 << 20
"""Of an unpacked record; the largest global batch over the longest routes takes less."""


def pack(plan: int, step: int, key: RoundKey, work: Done) -> bytes:
    """Write down who computed what.

    Args:
        plan: number of the plan that the step ran under.
        work: owner and report of every microbatch.
    """
    num_stages = len(work[0][1].route) if work else 0
    routes = [{done.route[stage] for _, done in work} for stage in range(num_stages)]
    groups = tuple(tuple(sorted(group)) for group in [*routes, {owner for owner, _ in work}])
    places = [{peer: place for place, peer in enumerate(group)} for group in groups]
    entries = tuple(
        RecordEntry(
            number=done.work.lease.number,
            lease=done.work.lease.lease,
            attempt=done.work.attempt,
            owner=places[-1][owner],
            route=tuple(places[stage][peer] for stage, peer in enumerate(done.route)),
            tokens=done.tokens,
            loss_sum=done.loss_sum,
            cursor=done.cursor,
        )
        for owner, done in work
    )
    record = StepRecord(plan=plan, step=step, key=key, groups=groups, entries=entries)
    return zlib.compress(codec.encode(record))


def unpack(data: bytes, grad_norm: float) -> Record:
    """Read it again.

    Args:
        grad_norm: known at the commit only.

    Raises:
        ProtocolError: it is no such record.
    """
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, _MOST_BYTES)
    except zlib.error as error:
        raise ProtocolError(f"a step's record is damaged ({error})", "ask another owner") from None
    record = codec.decode(plain)
    if not isinstance(record, StepRecord):
        raise ProtocolError("a step's record is something else", "ask another owner")
    try:
        work = tuple(_done(record, entry) for entry in record.entries)
    except IndexError:
        raise ProtocolError("a step's record names a peer that is not in it", "ask another owner") from None
    return Record(
        step=record.step,
        plan=record.plan,
        round=record.key.round,
        tokens=sum(done.tokens for _, done in work),
        loss_sum=math.fsum(done.loss_sum for _, done in work),
        grad_norm=grad_norm,
        work=work,
        digests=(),
    )


def _done(record: StepRecord, entry: RecordEntry) -> tuple[str, MicrobatchDone]:
    lease = Lease(entry.number, entry.lease)
    route = tuple(record.groups[stage][place] for stage, place in enumerate(entry.route))
    done = MicrobatchDone(
        work=Work(record.step, lease, entry.attempt),
        route=route,
        tokens=entry.tokens,
        loss_sum=entry.loss_sum,
        cursor=entry.cursor,
    )
    return record.groups[-1][entry.owner], done
