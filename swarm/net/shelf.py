"""What a peer keeps of its groups' state for others: a copy after one step, and averages of the steps since."""

from __future__ import annotations

import asyncio
import hashlib
from collections import ChainMap
from collections.abc import Mapping

from swarm.errors import CheckpointMissing
from swarm.model.spans import ENDS, Span
from swarm.net.channel import Delivery, Reply
from swarm.wire.messages import FetchState, ListState, PartInfo, StateChunk, StateList
from swarm.wire.payloads import MAX_CHUNK_BYTES

Parts = Mapping[str, bytes]


class Shelf:
    """Parts by the number of steps that the state has seen; the ends' apart from the trunk's.

    The ends go to the scheduler and to other owners only: they are trained on private text.

    Args:
        average_bytes: for averages; the oldest give way, and who still needs them has to begin again.
    """

    def __init__(self, average_bytes: int = 0) -> None:
        self._average_bytes = average_bytes
        self._copies: dict[bool, tuple[int, Parts]] = {}
        self._averages: dict[bool, dict[int, Parts]] = {}
        self._infos: dict[tuple[bool, int], tuple[PartInfo, ...]] = {}
        self._version = 0

    def put_copy(self, span: Span, num_steps: int, parts: Parts) -> None:
        """Keep the whole state of a group; an older copy gives way."""
        self._copies[span == ENDS] = num_steps, parts
        self._changed()

    def put_average(self, span: Span, num_steps: int, parts: Parts, seen_steps: int) -> None:
        """Keep the averaged gradient that led to the state after `num_steps` steps.

        Args:
            seen_steps: who follows has seen so many: what led there may go.
        """
        kept = self._averages.get(span == ENDS, {})
        kept = self._averages[span == ENDS] = {key: each for key, each in kept.items() if key > seen_steps}
        kept[num_steps] = parts
        while len(kept) > 1 and sum(map(_num_bytes, kept.values())) > self._average_bytes:
            del kept[min(kept)]
        self._changed()

    def drop_averages(self, span: Span) -> None:
        """Nobody follows the group any more."""
        self._averages.pop(span == ENDS, None)

    def clear(self) -> None:
        """What is here belongs to a history that may not go on."""
        self._copies.clear()
        self._averages.clear()
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._infos.clear()

    def parts(self, is_ends: bool, num_steps: int) -> Parts:
        """Everything of a state that is kept."""
        copy_steps, copy = self._copies.get(is_ends, (-1, {}))
        return ChainMap(self._averages.get(is_ends, {}).get(num_steps, {}), copy if copy_steps == num_steps else {})  # type: ignore[arg-type]

    async def list(self, delivery: Delivery) -> Reply:
        """Answer `ListState`."""
        request = delivery.message
        assert isinstance(request, ListState)
        infos: tuple[PartInfo, ...] = ()
        for is_ends in _allowed(delivery.roles):
            key = is_ends, request.num_steps
            found = self._infos.get(key)
            if found is None:
                version = self._version
                found = await asyncio.to_thread(_describe, self.parts(*key))
                # What was put meanwhile is not in it; and who asks for steps that nobody has must not fill the memory.
                if found and version == self._version:
                    self._infos[key] = found
            infos += found
        return Reply(StateList(parts=infos))

    async def fetch(self, delivery: Delivery) -> Reply:
        """Answer `FetchState`; raises CheckpointMissing."""
        request = delivery.message
        assert isinstance(request, FetchState)
        for is_ends in _allowed(delivery.roles):
            data = await asyncio.to_thread(self.parts(is_ends, request.num_steps).get, request.name)
            if data is not None and request.offset <= len(data):
                return Reply(StateChunk(), memoryview(data)[request.offset : request.offset + MAX_CHUNK_BYTES])
        raise CheckpointMissing(
            f"this peer keeps no {request.name} after step {request.num_steps}", "list the parts again"
        )


def _allowed(roles: tuple[str, ...]) -> tuple[bool, ...]:
    """Whose state members of these roles may have: of the trunk, and of the ends."""
    may_have_ends = "scheduler" in roles or "owner" in roles
    may_have_trunk = "scheduler" in roles or "host" in roles
    return (*((False,) if may_have_trunk else ()), *((True,) if may_have_ends else ()))


def _describe(parts: Parts) -> tuple[PartInfo, ...]:
    return tuple(
        PartInfo(name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in ((name, parts[name]) for name in sorted(parts))
    )


def _num_bytes(parts: Parts) -> int:
    return sum(map(len, parts.values()))
