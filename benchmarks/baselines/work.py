"""The work that all systems of a comparison do: one model, one optimizer, the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.corpora import random_text
from swarm.config import RunConfig, build
from swarm.data.sampler import microbatch
from swarm.data.tokenizer import ByteTokenizer
from swarm.model.slices import named_global_parameters
from swarm.training.optimizer import apply, build_optimizer

_CHARACTERS = 400_000

Batch = tuple[Tensor, Tensor]
"""Token ids and labels, [sequences, tokens], int64."""


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run that no admin signed; nothing is clipped, since no baseline has a norm over ranks."""
    config = build(RunConfig, {**values, "admin_public_key": "00" * 32}, "the benchmark's run")
    assert config.optimizer.max_grad_norm == 0
    return config


def batches(config: RunConfig, seed: int) -> Iterator[Batch]:
    """Microbatches without end, of random text."""
    tokens = ByteTokenizer().encode(random_text(seed, _CHARACTERS))
    cursor = 0
    while True:
        ids, labels = microbatch(tokens, config, seed, cursor)
        yield torch.from_numpy(ids), torch.from_numpy(labels)
        cursor += 1


@dataclass(slots=True)
class Updates:
    """The optimizer of one piece of the model, as the swarm's own.

    Args:
        module: with global parameter names.
        step: number of the next one.
    """

    config: RunConfig
    module: nn.Module
    step: int = 0
    _optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self._optimizer = build_optimizer(self.config.optimizer, named_global_parameters(self.module))

    def take(self, tokens: int) -> None:
        """Divide the gradient sums by so many tokens and apply one step."""
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(tokens)
        apply(self._optimizer, self.config.optimizer, self.config.schedule, self.step, grad_norm=0.0)
        self.step += 1
