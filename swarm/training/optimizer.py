"""The optimizer of every stage, and the two numbers that a step needs: learning rate and clipping factor. Both are
pure, so that all replicas of all stages apply the same step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from swarm.config import OptimizerConfig, ScheduleConfig

_NORM_EPSILON = 1e-6


def build_optimizer(config: OptimizerConfig, named_params: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    """Make the optimizer of one piece of the model.

    Args:
        config: the run's.
        named_params: global names and parameters, as `named_global_parameters` gives them.

    Returns:
        AdamW, whose vectors (norms, biases) do not decay, or SGD with momentum; no state is allocated yet.
    """
    matrices: list[tuple[str, nn.Parameter]] = []
    vectors: list[tuple[str, nn.Parameter]] = []
    for name, parameter in named_params:
        (matrices if parameter.dim() > 1 else vectors).append((name, parameter))
    if config.name == "sgd":
        return torch.optim.SGD([*matrices, *vectors], lr=config.learning_rate, momentum=config.momentum, fused=True)
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def learning_rate(config: OptimizerConfig, schedule: ScheduleConfig, step: int) -> float:
    """The learning rate of a step: up in a line, then down a cosine.

    Args:
        config: peak, warm-up and where the cosine ends.
        schedule: how many steps the run has.
        step: number of the step, from 0.

    Returns:
        The rate; after the last step it stays where the cosine ended.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    cosine_steps = max(1, schedule.steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / cosine_steps)
    share = config.final_learning_rate_fraction
    return config.learning_rate * (share + (1 - share) * 0.5 * (1 + math.cos(math.pi * progress)))


def clip_factor(config: OptimizerConfig, grad_norm: float) -> float:
    """What the gradient is multiplied by, so that its norm is at most the configured one.

    Args:
        config: `max_grad_norm`, 0 for no clipping.
        grad_norm: of the whole model's averaged gradient, all stages and ends together.
    """
    if config.max_grad_norm == 0:
        return 1.0
    return min(1.0, config.max_grad_norm / (grad_norm + _NORM_EPSILON))


def apply(
    optimizer: torch.optim.Optimizer,
    config: OptimizerConfig,
    schedule: ScheduleConfig,
    step: int,
    grad_norm: float,
) -> None:
    """Apply one step to one piece of the model, and clear its gradients.

    Args:
        optimizer: from `build_optimizer`; `grad` holds the averaged gradient; parameters without one stay as they are.
        config: the run's.
        schedule: the run's.
        step: number of the step, from 0.
        grad_norm: of the whole model's averaged gradient.
    """
    factor = clip_factor(config, grad_norm)
    rate = learning_rate(config, schedule, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
        if factor != 1.0:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What an optimizer remembers, for checkpoints and joiners.

    Args:
        optimizer: from `build_optimizer`.

    Returns:
        `<global parameter name>/<what>` to tensor, not copied; empty before the first step.
    """
    return {
        f"{name}/{what}": value
        for name, parameter in _named(optimizer)
        for what, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Make an optimizer remember what another one did.

    Args:
        optimizer: from `build_optimizer`, of the same kind.
        tensors: from `state_tensors`, of these parameters or more; copied.
    """
    optimizer.state.clear()
    names = dict(_named(optimizer))
    for key, value in tensors.items():
        name, _, what = key.partition("/")
        if name in names:
            # AdamW counts its steps on the CPU, wherever the parameter is.
            device = names[name].device if value.dim() else value.device
            optimizer.state[names[name]][what] = value.detach().to(device, copy=True)


def _named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)
