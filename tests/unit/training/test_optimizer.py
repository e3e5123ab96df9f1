"""Schedule, exact clipping, and that a step in pieces is a step of the whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from swarm.config import OptimizerConfig, ScheduleConfig
from swarm.training.optimizer import (
    apply,
    build_optimizer,
    clip_factor,
    learning_rate,
    load_state_tensors,
    state_tensors,
)

SCHEDULE = ScheduleConfig(steps=100)
KINDS = {
    "adamw": OptimizerConfig(name="adamw", warmup_steps=2, weight_decay=0.1),
    "sgd": OptimizerConfig(name="sgd", warmup_steps=2, momentum=0.9),
    "plain-sgd": OptimizerConfig(name="sgd", warmup_steps=2),
}


def _parameters() -> list[tuple[str, nn.Parameter]]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"w": (4, 3), "norm": (3,), "v": (2, 2)}
    return [(name, nn.Parameter(torch.randn(shape, generator=generator))) for name, shape in shapes.items()]


def _set_gradients(named: list[tuple[str, nn.Parameter]], step: int) -> float:
    for index, (_, parameter) in enumerate(named):
        parameter.grad = torch.full_like(parameter, 0.3 + index + step)
    return float(torch.cat([_gradient(parameter).flatten() for _, parameter in named]).norm())


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_learning_rate_fraction=0.1)
    assert learning_rate(config, SCHEDULE, 0) == pytest.approx(0.1)
    assert learning_rate(config, SCHEDULE, 9) == pytest.approx(1.0)
    assert learning_rate(config, SCHEDULE, 10) == pytest.approx(1.0)
    assert learning_rate(config, SCHEDULE, 55) == pytest.approx(0.55)
    assert learning_rate(config, SCHEDULE, 100) == pytest.approx(0.1)
    assert learning_rate(config, SCHEDULE, 1000) == pytest.approx(0.1)


def test_a_run_without_warm_up_or_shorter_than_it() -> None:
    assert learning_rate(OptimizerConfig(learning_rate=1.0, warmup_steps=0), SCHEDULE, 0) == 1.0
    assert learning_rate(OptimizerConfig(warmup_steps=200), SCHEDULE, 100) > 0


def test_clipping_is_exact_and_can_be_off() -> None:
    config = OptimizerConfig(max_grad_norm=2.0)
    assert clip_factor(config, 1.0) == 1.0
    assert clip_factor(config, 8.0) == pytest.approx(0.25)
    assert clip_factor(OptimizerConfig(max_grad_norm=0.0), 1e9) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_step_as_the_whole_does(kind: str) -> None:
    config = KINDS[kind]
    whole, pieces = _parameters(), _parameters()
    optimizer = build_optimizer(config, whole)
    parts = [build_optimizer(config, pieces[:1]), build_optimizer(config, pieces[1:])]
    for step in range(4):
        norm = _set_gradients(whole, step)
        _set_gradients(pieces, step)
        for one in (optimizer, *parts):
            apply(one, config, SCHEDULE, step, norm)
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(whole, pieces, strict=True))
    assert all(parameter.grad is None for _, parameter in whole)


def test_a_step_is_what_torch_would_do() -> None:
    config = KINDS["adamw"]
    ours, theirs = _parameters(), _parameters()
    optimizer = build_optimizer(config, ours)
    tensors = dict(theirs)
    groups = [
        {"params": [tensors["w"], tensors["v"]], "weight_decay": 0.1},
        {"params": [tensors["norm"]], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(config.beta1, config.beta2), eps=config.epsilon)
    for step in range(3):
        apply(optimizer, config, SCHEDULE, step, _set_gradients(ours, step))
        _set_gradients(theirs, step)
        nn.utils.clip_grad_norm_(list(tensors.values()), config.max_grad_norm)
        for group in reference.param_groups:
            group["lr"] = learning_rate(config, SCHEDULE, step)
        reference.step()
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_optimizer_goes_on_exactly(kind: str) -> None:
    config = KINDS[kind]
    first = _parameters()
    optimizer = build_optimizer(config, first)
    apply(optimizer, config, SCHEDULE, 0, _set_gradients(first, 0))
    second = [(name, nn.Parameter(parameter.detach().clone())) for name, parameter in first]
    restored = build_optimizer(config, second)
    load_state_tensors(restored, {key: value.clone() for key, value in state_tensors(optimizer).items()})
    for named, one in ((first, optimizer), (second, restored)):
        apply(one, config, SCHEDULE, 1, _set_gradients(named, 1))
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(first, second, strict=True))


def test_no_gradient_no_change() -> None:
    config = KINDS["adamw"]
    named = _parameters()
    before = [parameter.detach().clone() for _, parameter in named]
    apply(build_optimizer(config, named), config, SCHEDULE, 0, math.inf)
    assert all(torch.equal(one, parameter) for one, (_, parameter) in zip(before, named, strict=True))
