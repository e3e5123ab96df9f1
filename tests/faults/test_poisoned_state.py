"""Row 21: donors that offer poisoned weights, another step's, or what does not match its hash: never loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from swarm.errors import CheckpointCorrupt, CheckpointMissing
from swarm.model.spans import LayerSpan
from swarm.net.channel import Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.net.shelf import Shelf
from swarm.net.state import StateFetch
from swarm.training.checkpoint import read_parts
from swarm.training.device import Device
from swarm.training.stage import TrunkStage
from swarm.wire.messages import FetchState, ListState
from tests.support.net import Net
from tests.support.tiny_models import run_config

NAME = "model-00001"
GOOD = safetensors.torch.save({"weight": torch.ones(8)})
POISONED = safetensors.torch.save({"weight": torch.full((8,), 2.0)})
MOST = 1 << 20


class Donor:
    """Offers one part, and counts who fetched it."""

    def __init__(self, endpoint: Endpoint, content: bytes, num_steps: int = 7, sent: bytes | None = None) -> None:
        self.peer_id = endpoint.peer_id
        self.fetches = 0
        offered, served = Shelf(), Shelf()
        offered.put_copy((1, 2), num_steps, {NAME: content})
        served.put_copy((1, 2), num_steps, {NAME: content if sent is None else sent})

        async def fetch(delivery: Delivery) -> Reply:
            self.fetches += 1
            return await served.fetch(delivery)

        endpoint.on_request(ListState, offered.list)
        endpoint.on_request(FetchState, fetch)


def on_a_network(tmp_path: Path, body: Callable[[Net, Endpoint], Awaitable[None]]) -> None:
    async def main() -> None:
        net = Net("memory", tmp_path)
        async with asyncio.timeout(30):
            await body(net, await net.endpoint())
        for endpoint in net.endpoints:
            await endpoint.close()

    asyncio.run(main())


async def fetched(joiner: Endpoint, *donors: Donor) -> bytes:
    found = await StateFetch(joiner, 7, [NAME], MOST).run([donor.peer_id for donor in donors])
    return found[NAME]


@pytest.mark.parametrize("place", range(3))
def test_one_poisoned_offer_among_three_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    """Row 21: poisoned weights whose hash is right. What most donors hold is taken; the other one is named."""

    async def body(net: Net, joiner: Endpoint) -> None:
        donors = [Donor(await net.endpoint(), POISONED if number == place else GOOD) for number in range(3)]
        assert await fetched(joiner, *donors) == GOOD
        assert donors[place].fetches == 0
        assert f"{donors[place].peer_id} holds another {NAME}" in caplog.text

    on_a_network(tmp_path, body)


def test_of_two_that_disagree_neither_is_believed(tmp_path: Path) -> None:
    """Row 21: nobody can tell which of two is poisoned."""

    async def body(net: Net, joiner: Endpoint) -> None:
        donors = Donor(await net.endpoint(), GOOD), Donor(await net.endpoint(), POISONED)
        with pytest.raises(CheckpointCorrupt, match="hold different"):
            await fetched(joiner, *donors)
        assert [donor.fetches for donor in donors] == [0, 0]

    on_a_network(tmp_path, body)


def test_bytes_that_do_not_match_their_hash_are_fetched_elsewhere(tmp_path: Path) -> None:
    """Row 21: a wrong hash. The transfer goes on with a donor whose bytes verify."""

    async def body(net: Net, joiner: Endpoint) -> None:
        liar = Donor(await net.endpoint(), GOOD, sent=POISONED)
        assert await fetched(joiner, liar, Donor(await net.endpoint(), GOOD)) == GOOD
        assert liar.fetches == 1, "the fault fired"
        with pytest.raises(CheckpointCorrupt, match="does not match its own hash"):
            await fetched(joiner, liar)

    on_a_network(tmp_path, body)


@pytest.mark.parametrize("num_steps", [6, 8, 10**9])
def test_another_steps_state_is_not_taken(tmp_path: Path, num_steps: int) -> None:
    """Row 21: a future step, or an earlier one."""

    async def body(net: Net, joiner: Endpoint) -> None:
        other = Donor(await net.endpoint(), POISONED, num_steps)
        with pytest.raises(CheckpointMissing, match="after step 7"):
            await fetched(joiner, other)
        assert await fetched(joiner, other, Donor(await net.endpoint(), GOOD)) == GOOD
        assert other.fetches == 0

    on_a_network(tmp_path, body)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_never_load(value: float) -> None:
    """Row 21: poisoned weights that every donor vouches for."""
    content = safetensors.torch.save({"weight": torch.tensor([1.0, value])})
    with pytest.raises(CheckpointCorrupt, match=r"weight in model-00001 is not finite"):
        read_parts({NAME: content}, "model")


def test_weights_of_another_shape_never_load() -> None:
    """Row 21: poisoned weights that every donor vouches for."""
    stage = TrunkStage(run_config(), Device("cpu", "fp32"), LayerSpan(1, 2), 0)
    before = stage.digest()
    whole = read_parts(stage.snapshot(), "model")
    first = min(whole)
    with pytest.raises(CheckpointCorrupt, match=first.replace(".", r"\.")):
        stage.load({**whole, first: torch.zeros(3)}, {})
    stage.load(whole, {})
    assert stage.digest() == before
