"""A replay after a death computes the lost stage alone: its neighbours answer with what they kept."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from swarm.errors import MachineLimit
from swarm.model.spans import LayerSpan
from swarm.training.device import Device
from swarm.training.stage import EndsStage, Stage, TrunkStage
from swarm.wire.messages import Lease, Work
from tests.support.tiny_models import run_config

CONFIG = run_config()
KEEP_BYTES = 1 << 24
LEASE = Lease(0, 0)
IDS = torch.randint(0, 32, (2, 17), generator=torch.Generator().manual_seed(1))
TOKENS = 2 * 16


class Line:
    """An owner and three hosts of one layer each, by hand; counts what each computes."""

    def __init__(self, keep_bytes: int = KEEP_BYTES) -> None:
        self.keep_bytes = keep_bytes
        self.computed: Counter[str] = Counter()
        device = Device("cpu", "fp32")
        self.ends = EndsStage(CONFIG, device, keep_bytes)
        self.ends.ends(0).front_decoder.register_forward_hook(lambda *_: self.computed.update(["front"]))
        self.ends.ends(0).back_model.register_forward_hook(lambda *_: self.computed.update(["back"]))
        self.hosts = [self.host(layer, f"host {layer}") for layer in (1, 2, 3)]

    def host(self, layer: int, name: str) -> TrunkStage:
        stage = TrunkStage(CONFIG, Device("cpu", "fp32"), LayerSpan(layer, layer + 1), self.keep_bytes)
        stage.module(0).register_forward_hook(lambda *_: self.computed.update([name]))
        return stage

    def forward(self, attempt: int) -> Tensor:
        work = Work(0, LEASE, attempt)
        hidden = self.ends.front(work, IDS[:, :-1])
        for host in self.hosts:
            hidden = host.forward(work, hidden)
        return hidden

    def backward(self, attempt: int, hidden: Tensor, counts: dict[TrunkStage, bool], ends: bool = True) -> float:
        work = Work(0, LEASE, attempt)
        loss_sum, gradient = self.ends.back(work, hidden, IDS[:, 1:], count=ends)
        for host in reversed(self.hosts):
            gradient = host.backward(work, gradient, count=counts[host])
        self.ends.front_backward(work, gradient, count=ends)
        return loss_sum

    def gradients(self) -> list[Tensor]:
        stages: list[Stage] = [self.ends, *self.hosts]
        return [gradient for stage in stages for gradient in stage.mean_gradient(0, TOKENS)]


@pytest.fixture(scope="module")
def expected() -> list[Tensor]:
    line = Line()
    line.backward(0, line.forward(0), dict.fromkeys(line.hosts, True))
    return line.gradients()


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_host_that_dies_after_it_counted_is_the_only_one_computed_again(expected: list[Tensor]) -> None:
    line = Line()
    loss_sum = line.backward(0, line.forward(0), dict.fromkeys(line.hosts, True))
    line.computed.clear()
    replacement = line.hosts[1] = line.host(2, "replacement")
    counts = {host: host is replacement for host in line.hosts}
    assert line.backward(1, line.forward(1), counts, ends=False) == loss_sum
    assert line.computed == {"replacement": 1}
    assert same(line.gradients(), expected)


def test_a_host_that_dies_between_forward_and_backward_is_the_only_one_computed_again(expected: list[Tensor]) -> None:
    line = Line()
    work = Work(0, LEASE, 0)
    _, gradient = line.ends.back(work, line.forward(0), IDS[:, 1:], count=True)
    line.hosts[2].backward(work, gradient, count=True)
    line.computed.clear()
    line.hosts[1] = line.host(2, "replacement")
    hidden = line.forward(1)
    work = Work(0, LEASE, 1)
    _, gradient = line.ends.back(work, hidden, IDS[:, 1:], count=False)
    gradient = line.hosts[2].backward(work, gradient, count=False)
    for host in (line.hosts[1], line.hosts[0]):
        gradient = host.backward(work, gradient, count=True)
    line.ends.front_backward(work, gradient, count=True)
    assert line.computed == {"replacement": 1}
    assert same(line.gradients(), expected)


def test_without_room_everything_is_computed_again(expected: list[Tensor]) -> None:
    line = Line(keep_bytes=0)
    line.backward(0, line.forward(0), dict.fromkeys(line.hosts, True))
    line.computed.clear()
    line.backward(1, line.forward(1), dict.fromkeys(line.hosts, False), ends=False)
    assert set(line.computed) == {"front", "back", "host 1", "host 2", "host 3"}
    assert same(line.gradients(), expected)


def test_what_takes_a_microbatch_back_has_room_before_what_answers_replays() -> None:
    size = 4 * 2 * 16 * CONFIG.model["hidden_size"]
    line = Line(keep_bytes=2 * size)
    line.backward(0, line.forward(0), dict.fromkeys(line.hosts, True))
    line.computed.clear()
    line.forward(1)
    assert line.computed["host 1"] == 1, "there was no room for its answer"
    assert line.hosts[0].retract(0, [LEASE])
    assert all(gradient.abs().max() < 1e-7 for gradient in line.hosts[0].mean_gradient(0, TOKENS))


def test_an_attempt_that_overtook_its_own_backward_is_refused_where_nothing_was_kept() -> None:
    """The forward was answered by the graph of the attempt before, which took it along."""
    line = Line(keep_bytes=0)
    hidden = line.forward(0)
    line.forward(1)
    line.backward(0, hidden, dict.fromkeys(line.hosts, True))
    with pytest.raises(MachineLimit, match="was not kept"):
        line.hosts[2].backward(Work(0, LEASE, 1), torch.ones_like(hidden), count=False)


def test_a_step_that_is_over_is_forgotten() -> None:
    line = Line()
    line.backward(0, line.forward(0), dict.fromkeys(line.hosts, True))
    for stage in (line.ends, *line.hosts):
        stage.reset(0)
    line.computed.clear()
    line.forward(0)
    assert set(line.computed) == {"front", "host 1", "host 2", "host 3"}
