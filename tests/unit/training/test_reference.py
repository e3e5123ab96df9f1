"""The reference against stages driven by hand: two spans and two owners' ends, two replicas each, no network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from swarm.config import OptimizerConfig, RunConfig, ScheduleConfig
from swarm.data.sampler import microbatch
from swarm.errors import ShardTooSmall
from swarm.model.spans import LayerSpan
from swarm.training.device import Device
from swarm.training.evaluate import loss_sum, validation_loss
from swarm.training.reference import LedgerItem, LedgerStep, Reference, replay
from swarm.training.stage import EndsStage, TrunkStage
from swarm.wire.messages import Lease, Work
from tests.support.tiny_models import run_config

STEPS = 4
FIRST_SEED = 40
KEEP_BYTES = 1 << 20
SGD = OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.9, warmup_steps=2, max_grad_norm=1.0)
ADAMW = OptimizerConfig(name="adamw", learning_rate=3e-3, warmup_steps=2)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads wait for one another on a busy machine; the reference sets them anyhow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Figures:
    """What a run by hand came to."""

    losses: list[float]
    grad_norms: list[float]
    weights: dict[str, Tensor]


class HandDriven:
    """Owners and hosts without what stands between them."""

    def __init__(self, config: RunConfig) -> None:
        device = Device("cpu", "fp32")
        self.config = config
        self.spans = [
            [TrunkStage(config, device, span, KEEP_BYTES) for _ in range(2)]
            for span in (LayerSpan(1, 2), LayerSpan(2, 4))
        ]
        self.ends = [EndsStage(config, device, KEEP_BYTES) for _ in range(2)]

    def send(self, work: Work, item: LedgerItem, route: Sequence[int], counts: Sequence[bool]) -> float:
        """Take a microbatch through one replica of each span; `counts`: is it new to each, and to the front?"""
        ids, labels = (torch.from_numpy(part) for part in microbatch(item.tokens, self.config, item.seed, item.cursor))
        ends = self.ends[item.seed - FIRST_SEED]
        hosts = [stages[replica] for stages, replica in zip(self.spans, route, strict=True)]
        hidden = ends.front(work, ids)
        for host in hosts:
            hidden = host.forward(work, hidden)
        loss, gradient = ends.back(work, hidden, labels, count=counts[-1])
        for host, count in reversed(list(zip(hosts, counts[:-1], strict=True))):
            gradient = host.backward(work, gradient, count=count)
        ends.front_backward(work, gradient, count=counts[-1])
        return loss

    def finish_step(self, step: int, tokens: Sequence[tuple[int, int]]) -> float:
        """Average every group by tokens, clip by the norm of all, apply; replicas must stay equal."""
        averages = []
        for replicas, counted in zip([*self.spans, self.ends], tokens, strict=True):
            means = [stage.mean_gradient(step, count) for stage, count in zip(replicas, counted, strict=True)]
            total = sum(counted)
            averages.append([(a * counted[0] + b * counted[1]) / total for a, b in zip(*means, strict=True)])
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for group in averages for gradient in group))
        for replicas, average in zip([*self.spans, self.ends], averages, strict=True):
            for stage in replicas:
                stage.apply(step, [gradient.clone() for gradient in average], norm)
            assert len({stage.digest() for stage in replicas}) == 1
        return norm

    def weights(self) -> dict[str, Tensor]:
        return {
            name: parameter.detach() for replicas in [*self.spans, self.ends] for name, parameter in replicas[0]._named
        }


def _ledger() -> list[LedgerStep]:
    """Under two plans, four steps of four microbatches: two an owner in even steps, three and one in odd ones."""
    random = np.random.default_rng(1)
    shards = [random.integers(0, 256, 700, dtype=np.uint16) for _ in range(2)]
    cursors = [0, 0]
    ledger = []
    for step in range(STEPS):
        items = []
        for number in range(4):
            owner = number % 2 if step % 2 == 0 else int(number == 3)
            items.append(LedgerItem(shards[owner], FIRST_SEED + owner, cursors[owner]))
            cursors[owner] += 1
        ledger.append(LedgerStep(1 + step // 3, items))
    return ledger


def _drive(config: RunConfig, ledger: list[LedgerStep]) -> Figures:
    """Steps one after the other; with staleness 1 the half of each is sent before the step before it is finished."""
    hand = HandDriven(config)
    losses, norms = [], []
    for step, entry in enumerate(ledger):
        runs_on = config.schedule.staleness == 1 and step + 1 < STEPS and ledger[step + 1].plan == entry.plan
        ran_ahead = config.schedule.staleness == 1 and step > 0 and ledger[step - 1].plan == entry.plan
        half = len(entry.items) // 2
        if not ran_ahead:
            for stage in [stage for replicas in [*hand.spans, hand.ends] for stage in replicas]:
                stage.align()
            losses.append(_send(hand, step, entry.items, 0, half))
        losses[step] += _send(hand, step, entry.items, half, len(entry.items))
        _repeat_elsewhere(hand, entry.items[1], step)
        if runs_on:
            losses.append(_send(hand, step + 1, ledger[step + 1].items, 0, half))
        _answer_again(hand, entry.items[2], step)
        norms.append(hand.finish_step(step, _tokens(config, step, entry.items)))
        losses[step] /= config.microbatch_tokens * len(entry.items)
    return Figures(losses, norms, hand.weights())


def _send(hand: HandDriven, step: int, items: Sequence[LedgerItem], first: int, last: int) -> float:
    """Plain microbatches; the sum of their losses."""
    return sum(
        hand.send(Work(step, Lease(number, 0), 0), items[number], _route(number, step), [True, True, True])
        for number in range(first, last)
    )


def _route(number: int, step: int) -> list[int]:
    return [number % 2, (number + step) % 2]


def _tokens(config: RunConfig, step: int, items: Sequence[LedgerItem]) -> list[tuple[int, int]]:
    """By group, what each of its two replicas counted."""
    tokens = [[0, 0], [0, 0], [0, 0]]
    for number, item in enumerate(items):
        for group, replica in enumerate([*_route(number, step), item.seed - FIRST_SEED]):
            tokens[group][replica] += config.microbatch_tokens
    return [(counted[0], counted[1]) for counted in tokens]


def _repeat_elsewhere(hand: HandDriven, item: LedgerItem, step: int) -> None:
    """The ends answer from their books, other replicas count as well: these then take it back."""
    work, route = Work(step, Lease(1, 0), 1), [0, step % 2]
    hand.send(work, item, route, [True, True, False])
    assert all(stages[replica].retract(step, [work.lease]) for stages, replica in zip(hand.spans, route, strict=True))


def _answer_again(hand: HandDriven, item: LedgerItem, step: int) -> None:
    """A replay over replicas that counted the microbatch already: nobody counts it again."""
    hand.send(Work(step, Lease(2, 0), 1), item, [0, step % 2], [False, False, False])


def _both(optimizer: OptimizerConfig, staleness: int) -> tuple[Figures, Reference]:
    schedule = ScheduleConfig(steps=STEPS, staleness=staleness)
    config = replace(run_config(optimizer=optimizer), schedule=schedule)
    ledger = _ledger()
    return _drive(config, ledger), replay(config, ledger, threads=1, device="cpu")


@pytest.mark.parametrize("staleness", [0, 1])
def test_sgd_weights_equal_those_of_stages(staleness: int) -> None:
    hand, reference = _both(SGD, staleness)
    assert reference.weights.keys() == hand.weights.keys()
    for name, weight in reference.weights.items():
        assert float((weight - hand.weights[name]).abs().max() / weight.abs().max()) < 1e-5, name
    for norm, step in zip(hand.grad_norms, reference.steps, strict=True):
        assert norm == pytest.approx(step.grad_norm, rel=1e-5)


@pytest.mark.parametrize("staleness", [0, 1])
def test_adamw_losses_equal_those_of_stages(staleness: int) -> None:
    hand, reference = _both(ADAMW, staleness)
    assert [step.tokens for step in reference.steps] == [4 * 2 * 16] * STEPS
    for loss, step in zip(hand.losses, reference.steps, strict=True):
        assert loss == pytest.approx(step.mean_loss, rel=1e-5)


def test_a_missing_microbatch_shows() -> None:
    """The comparison is worth something only if it can fail."""
    config = replace(run_config(optimizer=SGD), schedule=ScheduleConfig(steps=STEPS))
    ledger = _ledger()
    whole = replay(config, ledger, threads=1, device="cpu").weights
    holed_step = replace(ledger[2], items=ledger[2].items[1:])
    holed = replay(config, [*ledger[:2], holed_step, *ledger[3:]], threads=1, device="cpu").weights
    differences = [float((holed[name] - whole[name]).abs().max() / whole[name].abs().max()) for name in whole]
    assert max(differences) > 1e-3


def test_the_caller_sees_every_step_and_gets_a_model_that_improved() -> None:
    config = replace(run_config(optimizer=ADAMW), schedule=ScheduleConfig(steps=STEPS))
    ledger = _ledger()
    seen: list[int] = []
    reference = replay(config, ledger, threads=1, on_step=lambda step: seen.append(step.step), device="cpu")
    assert seen == list(range(STEPS))
    assert not reference.model.training


def test_validation_covers_every_window_once() -> None:
    config = run_config()
    model = replay(config, [], threads=1, device="cpu").model
    tokens = np.random.default_rng(2).integers(0, 256, 16 * 5 + 1 + 7, dtype=np.uint16)
    ids = torch.from_numpy(tokens[:80].astype(np.int64)).view(5, 16)
    labels = torch.from_numpy(tokens[1:81].astype(np.int64)).view(5, 16)
    with torch.inference_mode():
        expected = float(loss_sum(model, ids, labels)) / 80
    assert validation_loss(model, tokens, 16, batch=2) == pytest.approx(expected, rel=1e-6)


def test_validation_text_shorter_than_a_window_is_an_error() -> None:
    model = replay(run_config(), [], threads=1, device="cpu").model
    with pytest.raises(ShardTooSmall):
        validation_loss(model, np.zeros(16, dtype=np.uint16), 16, batch=2)


def test_staleness_shows() -> None:
    """And the comparison of stale gradients only if they differ from fresh ones."""
    ledger = _ledger()
    fresh, stale = (
        replay(
            replace(run_config(optimizer=SGD), schedule=ScheduleConfig(steps=STEPS, staleness=staleness)),
            ledger,
            threads=1,
            device="cpu",
        ).weights
        for staleness in (0, 1)
    )
    assert max(float((fresh[name] - stale[name]).abs().max() / fresh[name].abs().max()) for name in fresh) > 1e-3
