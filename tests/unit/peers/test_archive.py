"""What a peer's disk brings back is, bit for bit, what it held."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from peers.archive import NO_ROUND, Archive
from peers.journal import Journal
from peers.records import Records
from swarm.model.spans import LayerSpan
from swarm.training.device import Device
from swarm.training.stage import TrunkStage
from swarm.wire.digest import square_norm_of
from swarm.wire.messages import RoundKey
from tests.support.tiny_models import run_config

SPAN = (1, 3)
NORM = 0.5


def make() -> TrunkStage:
    return TrunkStage(run_config("llama"), Device("cpu", "fp32"), LayerSpan(*SPAN), 0)


def opened(folder: Path, say: Callable[[str], None] = lambda _: None, budget_bytes: int = 1 << 30) -> Archive:
    return Archive(Journal(folder / "journal", budget_bytes), Records(folder / "records"), say)


async def train(archive: Archive, stage: TrunkStage, steps: int, *, commit_last: bool = True) -> list[str]:
    """Take steps with random averages; the weights' digests after each, also of a last one that is not committed."""
    digests = [stage.digest()]
    for step in range(steps):
        torch.manual_seed(step)
        average = [torch.randn_like(each) for each in stage.mean_gradient(step, 0)]
        key = RoundKey(1, step + 1)
        files = stage.gradient_files(average)
        await archive.averaged(SPAN, step, key, files, square_norm_of(average), f"ledger {step}".encode())
        stage.apply(step, average, NORM)
        digests.append(stage.digest())
        if commit_last or step + 1 < steps:
            archive.committed(SPAN, step, key, NORM)
            if archive.wants_snapshot(SPAN):
                archive.snapshot(SPAN, step + 1, key, stage.snapshot())
    return digests


@pytest.mark.parametrize("steps", [5, 20])
def test_every_state_within_reach_is_rebuilt_by_another_process(tmp_path: Path, steps: int) -> None:
    async def main() -> None:
        archive = opened(tmp_path)
        digests = await train(archive, make(), steps)
        await archive.close()
        again = opened(tmp_path)
        (held,) = await again.holdings()
        assert (held.first_layer, held.last_layer) == SPAN
        assert held.committed_steps == held.last_steps == steps
        assert held.committed_key == RoundKey(1, steps)
        assert held.grad_norm == NORM
        for num_steps in range(max(1, held.first_steps), steps + 1):
            stage = await again.rebuild(SPAN, num_steps, 0.0, make)
            assert stage is not None
            assert stage.digest() == digests[num_steps]
        assert await again.rebuild(SPAN, steps + 1, 0.0, make) is None
        await again.close()

    asyncio.run(main())


def test_an_average_that_may_not_be_committed_needs_the_norm_from_others(tmp_path: Path) -> None:
    async def main() -> None:
        archive = opened(tmp_path)
        digests = await train(archive, make(), 3, commit_last=False)
        (held,) = await archive.holdings()
        assert (held.committed_steps, held.last_steps, held.last_key) == (2, 3, RoundKey(1, 3))
        assert held.square_norm > 0
        assert await archive.rebuild(SPAN, 3, 0.0, make) is None
        stage = await archive.rebuild(SPAN, 3, NORM, make)
        assert stage is not None
        assert stage.digest() == digests[3]
        await archive.close()

    asyncio.run(main())


def test_the_ledger_of_a_step_is_here_before_and_after_its_commit(tmp_path: Path) -> None:
    async def main() -> None:
        archive = opened(tmp_path)
        await train(archive, make(), 3, commit_last=False)
        found = [await archive.record(step) for step in range(4)]
        assert [record for _, record in found] == [b"ledger 0", b"ledger 1", b"ledger 2", b""]
        assert [each.grad_norm for each, _ in found] == [NORM, NORM, 0.0, 0.0]
        assert [each.key for each, _ in found] == [RoundKey(1, 1), RoundKey(1, 2), RoundKey(1, 3), NO_ROUND]
        await archive.rewind(1)
        assert (await archive.record(1))[1] == b""
        assert (await archive.holdings())[0].last_steps == 1
        await archive.clear()
        assert await archive.holdings() == ()
        await archive.close()

    asyncio.run(main())


def test_a_disk_that_is_too_small_is_told_and_stops_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        told: list[str] = []
        archive = opened(tmp_path, told.append, budget_bytes=1000)
        await train(archive, make(), 3)
        assert await archive.holdings() == ()
        assert told
        assert "[S600]" in told[0]
        await archive.close()

    asyncio.run(main())


def test_a_history_that_is_gone_begins_again_before_long(tmp_path: Path) -> None:
    """The journal gives up a group that lags behind another one: a shadow that was too slow for a while."""

    async def main() -> None:
        archive = opened(tmp_path)
        await train(archive, make(), 10)
        assert await archive.holdings(), "and all of it is written"
        shutil.rmtree(tmp_path / "journal" / "layers-00001-00003")
        stage = make()
        for step in range(10):
            average = [torch.zeros_like(each) for each in stage.mean_gradient(step, 0)]
            stage.apply(step, average, NORM)
        assert not archive.wants_snapshot(SPAN)
        files = stage.gradient_files([torch.zeros_like(each) for each in stage.mean_gradient(10, 0)])
        await archive.averaged(SPAN, 10, RoundKey(1, 11), files, 1.0, b"")
        assert archive.wants_snapshot(SPAN)
        archive.snapshot(SPAN, 10, RoundKey(1, 10), stage.snapshot())
        await archive.averaged(SPAN, 10, RoundKey(1, 11), files, 1.0, b"")
        assert not archive.wants_snapshot(SPAN)
        (held,) = await archive.holdings()
        assert (held.committed_steps, held.last_steps) == (10, 11)
        await archive.close()

    asyncio.run(main())


def test_what_we_do_not_serve_leaves_room_for_what_we_do(tmp_path: Path) -> None:
    """A disk for one group: the spare one gives way, and the one that counts stays whole."""
    other = (4, 6)

    async def main() -> None:
        stage = make()
        parts = stage.snapshot()
        budget_bytes = 3 * sum(map(len, parts.values()))
        archive = opened(tmp_path, budget_bytes=budget_bytes)
        archive.snapshot(SPAN, 1, RoundKey(1, 1), parts)
        archive.snapshot(other, 1, RoundKey(1, 1), parts, is_spare=True)
        await archive.averaged(other, 1, RoundKey(1, 2), parts, 1.0, b"", is_spare=True)
        assert [(held.first_layer, held.last_layer) for held in await archive.holdings()] == [SPAN]
        await archive.close()

    asyncio.run(main())
