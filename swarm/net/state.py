"""Fetching parts of other members' state: from several at once, checked by hash, going on where it stopped."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from swarm.errors import CheckpointCorrupt, CheckpointMissing, SwarmError
from swarm.net.endpoint import Endpoint
from swarm.net.patience import settle
from swarm.net.transport import STATE
from swarm.wire.messages import FetchState, ListState, PartInfo, StateChunk, StateList
from swarm.wire.payloads import MAX_CHUNK_BYTES

_log = logging.getLogger(__name__)

_MOST_AT_ONCE = 16
"""Chunks under way from one donor: what a long, fast line holds."""
_GRACE = 3.0
"""Times as long as the first donor that has everything took may the others take after it."""
_LEAST_GRACE_S = 1.0


class _Window:
    """Chunks that one donor may be asked for at once: one at first, so that a slow line's deadline is learned from few
    bytes, and one more with each that came."""

    def __init__(self) -> None:
        self._width = 1
        self._free = asyncio.Semaphore(1)

    async def __aenter__(self) -> None:
        await self._free.acquire()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._free.release()
        if kind is None and self._width < _MOST_AT_ONCE:
            self._width += 1
            self._free.release()


@dataclass(slots=True)
class StateFetch:
    """Parts of the state after `num_steps` steps; what has arrived stays when `run` fails and is run again.

    Args:
        endpoint: asks.
        num_steps: of the state.
        required: names of parts without which nothing is done.
        most_bytes: that a part can have; larger offers are ignored.
        optional: names of parts that are taken where donors have them.
        parts: what has arrived, by name; may be filled with what is here already.
        answers: donors that answered the last time they were asked, whether they had anything or not.
    """

    endpoint: Endpoint
    num_steps: int
    required: Collection[str]
    most_bytes: int
    optional: Collection[str] = ()
    parts: dict[str, bytes] = field(default_factory=dict)
    answers: int = 0

    async def run(self, donors: Collection[str]) -> dict[str, bytes]:
        """Fetch what is missing, each part from whichever donor is free.

        Returns:
            Every part, by name.

        Raises:
            CheckpointMissing: no donor has a required part, now.
            CheckpointCorrupt: donors disagree without a majority, or a part does not match its hash.
            NetworkError: the last donor of a part broke off.
        """
        offers = await self._offers(donors)
        missing = [name for name in self.required if name not in self.parts and name not in offers]
        if missing:
            raise CheckpointMissing(
                f"no donor has {missing[0]} of the state after step {self.num_steps}", "wait for the next copy"
            )
        windows = {donor: _Window() for donor in donors}
        wanted = [name for name in (*self.required, *self.optional) if name in offers and name not in self.parts]
        fetches = []
        for place, name in enumerate(wanted):
            info, holders = offers[name]
            first = place % len(holders)  # donors share the parts
            fetches.append(self._fetch(info, [*holders[first:], *holders[:first]], windows))
        for result in await asyncio.gather(*fetches, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return self.parts

    async def _offers(self, donors: Collection[str]) -> Mapping[str, tuple[PartInfo, list[str]]]:
        lists = await self._lists(donors)
        self.answers = sum(parts is not None for parts in lists.values())
        offers: dict[str, dict[PartInfo, list[str]]] = {}
        for donor, parts in lists.items():
            for part in {each.name: each for each in parts or ()}.values():  # one word a donor
                if part.num_bytes <= self.most_bytes:
                    offers.setdefault(part.name, {}).setdefault(part, []).append(donor)
        return {name: self._agreed(by_info) for name, by_info in offers.items()}

    async def _lists(self, donors: Collection[str]) -> dict[str, tuple[PartInfo, ...] | None]:
        """What donors have, in the order of donors; who is much later than one that has everything is left out.

        It may sleep, and a whole group would wait for a mover that waits for it.
        """
        wanted = {name for name in self.required if name not in self.parts}

        def has_everything(answer: asyncio.Task[tuple[PartInfo, ...] | None]) -> bool:
            return wanted <= {part.name for part in answer.result() or ()}

        asked = {donor: asyncio.create_task(self._list(donor)) for donor in donors}
        await settle(asked.values(), has_everything, lambda took_s: max(_LEAST_GRACE_S, _GRACE * took_s))
        return {donor: each.result() for donor, each in asked.items() if each.done()}

    def _agreed(self, offers: Mapping[PartInfo, list[str]]) -> tuple[PartInfo, list[str]]:
        """What more than half of a part's donors hold: a faulty or lying one among three does not stop a transfer."""
        info, holders = max(offers.items(), key=lambda offer: len(offer[1]))
        others = [donor for each, donors in offers.items() if each != info for donor in donors]
        if len(holders) <= len(others):
            raise CheckpointCorrupt(
                f"{others[0]} and {holders[0]} hold different {info.name} after step {self.num_steps}",
                "the admin should look for a faulty machine",
            )
        if others:
            _log.warning("%s holds another %s after step %d than %s", others[0], info.name, self.num_steps, holders[0])
        return info, holders

    async def _list(self, donor: str) -> tuple[PartInfo, ...] | None:
        try:
            reply, _ = await self.endpoint.request(donor, ListState(num_steps=self.num_steps), lane=STATE)
        except SwarmError:
            return None
        return reply.parts if isinstance(reply, StateList) else ()

    async def _fetch(self, info: PartInfo, holders: list[str], windows: Mapping[str, _Window]) -> None:
        for donor in holders:
            try:
                self.parts[info.name] = await self._fetch_from(donor, info, windows[donor])
                return
            except SwarmError:
                if donor == holders[-1]:
                    raise

    async def _fetch_from(self, donor: str, info: PartInfo, window: _Window) -> bytes:
        offsets = range(0, info.num_bytes, MAX_CHUNK_BYTES)
        chunks = [asyncio.create_task(self._chunk(donor, info, offset, window)) for offset in offsets]
        try:
            content = b"".join(await asyncio.gather(*chunks))
        finally:
            for chunk in chunks:
                chunk.cancel()
        if len(content) != info.num_bytes or (await asyncio.to_thread(_sha256, content)) != info.sha256:
            raise CheckpointCorrupt(
                f"{donor} sent a {info.name} that does not match its own hash", "ask another replica"
            )
        return content

    async def _chunk(self, donor: str, info: PartInfo, offset: int, window: _Window) -> bytes:
        async with window:
            request = FetchState(num_steps=self.num_steps, name=info.name, offset=offset)
            reply, chunk = await self.endpoint.request(donor, request, lane=STATE)
        return chunk if isinstance(reply, StateChunk) else b""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
