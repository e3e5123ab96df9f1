"""State between members: from several donors, by hash, going on where it stopped; the ends for few eyes only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from swarm.errors import CheckpointCorrupt, CheckpointMissing, SwarmError
from swarm.model.spans import ENDS
from swarm.net import shelf as shelves
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.net.shelf import Shelf
from swarm.net.state import StateFetch
from swarm.wire.messages import FetchState, ListState
from swarm.wire.payloads import MAX_CHUNK_BYTES
from tests.support.net import Net

SPAN = (1, 3)
MOST = 2 * MAX_CHUNK_BYTES
LARGE = bytes(range(256)) * (MAX_CHUNK_BYTES // 256) + b"tail"
PARTS = {"model-00001": b"one", "model-00002": LARGE, "optimizer-00001": b"moments"}


def serve(endpoint: Endpoint, parts: dict[str, bytes] = PARTS, num_steps: int = 7) -> Shelf:
    shelf = Shelf()
    shelf.put_copy(SPAN, num_steps, parts)
    endpoint.on_request(ListState, shelf.list)
    endpoint.on_request(FetchState, shelf.fetch)
    return shelf


def test_parts_come_from_several_donors_whole(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, *donors = [await net.endpoint() for _ in range(3)]
        asked: list[str] = []
        for donor in donors:
            shelf = serve(donor)

            async def fetch(delivery: Delivery, shelf: Shelf = shelf, name: str = donor.peer_id) -> Reply:
                asked.append(name)
                return await shelf.fetch(delivery)

            donor.on_request(FetchState, fetch)
        fetch_all = StateFetch(joiner, 7, ["model-00001", "model-00002"], MOST, ["optimizer-00001", "optimizer-00002"])
        assert await fetch_all.run([donor.peer_id for donor in donors]) == PARTS
        assert set(asked) == {donor.peer_id for donor in donors}

    run(body)


def test_a_donor_is_asked_for_one_chunk_and_then_for_several_at_once(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, donor = [await net.endpoint() for _ in range(2)]
        long = bytes(40 * MAX_CHUNK_BYTES)
        shelf = serve(donor, {"model-00001": long})
        under_way: list[int] = []
        waiting = 0
        several = asyncio.Event()

        async def fetch(delivery: Delivery) -> Reply:
            nonlocal waiting
            waiting += 1
            under_way.append(waiting)
            if waiting > 1:
                several.set()
            if len(under_way) > 1:
                await several.wait()
            waiting -= 1
            return await shelf.fetch(delivery)

        donor.on_request(FetchState, fetch)
        assert await StateFetch(joiner, 7, ["model-00001"], len(long)).run([donor.peer_id]) == {"model-00001": long}
        assert under_way[0] == 1
        assert len(under_way) == 40
        assert 1 < max(under_way) <= 16

    run(body)


def test_a_donor_that_breaks_off_is_replaced(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, bad, good = [await net.endpoint() for _ in range(3)]
        for donor in (bad, good):
            serve(donor)

        async def refuse(delivery: Delivery) -> Reply:
            raise CheckpointMissing("gone", "ask another one")

        bad.on_request(FetchState, refuse)
        found = await StateFetch(joiner, 7, list(PARTS), MOST).run([bad.peer_id, good.peer_id])
        assert found == PARTS

    run(body)


def test_a_donor_that_sleeps_holds_nobody_up(run: Callable[..., None]) -> None:
    """A mover waited for the list of one that was frozen, and its whole group for the mover: 20 s of a chaos run."""

    async def body(net: Net) -> None:
        joiner, asleep, good = [await net.endpoint() for _ in range(3)]
        was_asked, wakes = asyncio.Event(), asyncio.Event()
        for donor in (asleep, good):
            serve(donor)

        async def sleep(delivery: Delivery) -> Reply:
            was_asked.set()
            await wakes.wait()
            raise CheckpointMissing("gone", "ask another one")

        asleep.on_request(ListState, sleep)
        fetch = StateFetch(joiner, 7, list(PARTS), MOST)
        assert await fetch.run([asleep.peer_id, good.peer_id]) == PARTS
        assert was_asked.is_set()
        assert fetch.answers == 1
        wakes.set()

    run(body)


def test_donors_that_have_nothing_are_told_from_donors_that_are_gone(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, late, gone = [await net.endpoint() for _ in range(3)]
        serve(late, num_steps=6)
        await gone.close()
        for donors, answers in (([late.peer_id, gone.peer_id], 1), ([gone.peer_id], 0)):
            fetch = StateFetch(joiner, 7, list(PARTS), MOST)
            with pytest.raises(CheckpointMissing):
                await fetch.run(donors)
            assert fetch.answers == answers

    run(body)


def test_what_has_arrived_is_not_fetched_again(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, donor = [await net.endpoint() for _ in range(2)]
        shelf = serve(donor)
        broken = True
        names: list[str] = []

        async def sometimes(delivery: Delivery) -> Reply:
            assert isinstance(delivery.message, FetchState)
            names.append(delivery.message.name)
            if broken and delivery.message.offset:
                raise CheckpointMissing("gone", "ask again")
            return await shelf.fetch(delivery)

        donor.on_request(FetchState, sometimes)
        fetch = StateFetch(joiner, 7, list(PARTS), MOST)
        with pytest.raises(SwarmError):
            await fetch.run([donor.peer_id])
        assert set(fetch.parts) == {"model-00001", "optimizer-00001"}
        broken = False
        names.clear()
        assert await fetch.run([donor.peer_id]) == PARTS
        assert set(names) == {"model-00002"}

    run(body)


def test_a_part_that_does_not_match_its_hash_is_refused(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, liar = [await net.endpoint() for _ in range(2)]
        serve(liar)
        liar.on_request(FetchState, serve(await net.endpoint(), {**PARTS, "model-00001": b"two"}).fetch)
        with pytest.raises(CheckpointCorrupt, match="does not match its own hash"):
            await StateFetch(joiner, 7, ["model-00001"], MOST).run([liar.peer_id])

    run(body)


def test_donors_that_disagree_are_named(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, one, other = [await net.endpoint() for _ in range(3)]
        serve(one)
        serve(other, {**PARTS, "model-00001": b"two"})
        with pytest.raises(CheckpointCorrupt, match="different model-00001"):
            await StateFetch(joiner, 7, list(PARTS), MOST).run([one.peer_id, other.peer_id])

    run(body)


def test_another_step_is_missing(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, donor = [await net.endpoint() for _ in range(2)]
        serve(donor)
        with pytest.raises(CheckpointMissing, match="after step 8"):
            await StateFetch(joiner, 8, ["model-00001"], MOST).run([donor.peer_id])

    run(body)


@pytest.mark.parametrize(
    ("roles", "trunk", "ends"),
    [
        (("host",), True, False),
        (("owner",), False, True),
        (("scheduler",), True, True),
        (("host", "owner"), True, True),
    ],
)
def test_the_ends_are_for_owners_and_the_scheduler(
    run: Callable[..., None], roles: tuple[str, ...], trunk: bool, ends: bool
) -> None:
    async def body(net: Net) -> None:
        asker, donor = await net.endpoint(roles), await net.endpoint(("host", "owner"))
        serve(donor).put_copy(ENDS, 7, {"model-ends": b"private"})
        for name, allowed in (("model-00001", trunk), ("model-ends", ends)):
            fetch = StateFetch(asker, 7, [name], MOST)
            if allowed:
                assert await fetch.run([donor.peer_id])
            else:
                with pytest.raises(CheckpointMissing):
                    await fetch.run([donor.peer_id])
                with pytest.raises(SwarmError, match="keeps no"):
                    await asker.request(donor.peer_id, FetchState(num_steps=7, name=name, offset=0))

    run(body)


def test_a_part_that_cannot_be_so_large_is_not_fetched(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        joiner, liar = [await net.endpoint() for _ in range(2)]
        serve(liar)
        with pytest.raises(CheckpointMissing, match="model-00002"):
            await StateFetch(joiner, 7, list(PARTS), len(LARGE) - 1).run([liar.peer_id])

    run(body)


def test_a_list_asked_for_too_early_is_not_remembered(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(net: Net) -> None:
        joiner, donor = [await net.endpoint() for _ in range(2)]
        shelf = serve(donor)
        describe = shelves._describe

        def slowly(parts: shelves.Parts) -> object:
            found = describe(parts)
            shelf.put_average(SPAN, 8, {"gradient-00001": b"late"}, 7)  # while the list is being made
            return found

        monkeypatch.setattr(shelves, "_describe", slowly)
        with pytest.raises(CheckpointMissing):
            await StateFetch(joiner, 8, ["gradient-00001"], MOST).run([donor.peer_id])
        monkeypatch.setattr(shelves, "_describe", describe)
        found = await StateFetch(joiner, 8, ["gradient-00001"], MOST).run([donor.peer_id])
        assert found == {"gradient-00001": b"late"}

    run(body)
