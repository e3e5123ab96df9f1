"""What a run should have computed: one process that replays a ledger on the unsliced model.

It shares the swarm's initial weights, sampler, gradient sums, clipping and optimizer, and nothing else: no slices, no
routes, no rounds, no copies of weights for steps that run at once. A run is exact if its losses and weights equal these
up to rounding.

With staleness 1 a step's gradient is of the weights before the newest; the first step of a plan is on the newest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from swarm.config import RunConfig
from swarm.data.sampler import microbatch
from swarm.data.tokenizer import TokenArray
from swarm.model.slices import build_full, named_global_parameters
from swarm.training.device import Device
from swarm.training.evaluate import loss_sum
from swarm.training.stage import Stage
from swarm.wire.digest import square_norm_of


@dataclass(frozen=True, slots=True, eq=False)
class LedgerItem:
    """One microbatch as its owner cut it."""

    tokens: TokenArray
    """The owner's training tokens, [tokens]."""
    seed: int
    """Of the owner's order: `Shard.sampling_seed`."""
    cursor: int
    """As the ledger recorded it."""


@dataclass(frozen=True, slots=True, eq=False)
class LedgerStep:
    """One step."""

    plan: int
    """Number of the plan that it ran under."""
    items: Sequence[LedgerItem]
    """Its global batch."""


@dataclass(frozen=True, slots=True)
class ReplayedStep:
    """One step's figures."""

    step: int
    """From 0."""
    tokens: int
    """Of the global batch."""
    mean_loss: float
    """Nats a token, before the step's update."""
    grad_norm: float
    """Of the averaged gradient, before clipping."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What replaying gave."""

    steps: tuple[ReplayedStep, ...]
    model: PreTrainedModel
    """After the last step, in evaluation mode."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """The final weights by global name, tied ones once; they share the model's memory."""
        return {name: parameter.detach() for name, parameter in named_global_parameters(self.model)}


class _WholeModel(Stage):
    """The run as a single stage with a single replica."""

    def __init__(self, config: RunConfig, device: Device) -> None:
        self.model = build_full(config)
        super().__init__(replace(config, schedule=replace(config.schedule, staleness=0)), device, self.model)

    def weights(self) -> list[Tensor]:
        """A copy."""
        return [parameter.detach().clone() for _, parameter in self._named]

    def put(self, weights: Sequence[Tensor]) -> None:
        """What `weights` gave; the optimizer's memory stays."""
        with torch.no_grad():
            for (_, parameter), values in zip(self._named, weights, strict=True):
                parameter.copy_(values)

    def count(self, item: LedgerItem) -> float:
        """Add a microbatch's gradient to the sums.

        Returns:
            Sum of the tokens' losses.
        """
        ids, labels = microbatch(item.tokens, self.config, item.seed, item.cursor)
        where = self.device.torch_device
        with self.device.autocast():
            total = loss_sum(self.model, torch.from_numpy(ids).to(where), torch.from_numpy(labels).to(where))
        torch.autograd.backward(total)
        return float(total.detach())

    def _forget(self, step: int) -> None:
        """No boundaries, so none to forget."""


def replay(
    config: RunConfig,
    ledger: Iterable[LedgerStep],
    threads: int,
    on_step: Callable[[ReplayedStep], None] | None = None,
    device: str = "auto",
) -> Reference:
    """Train the unsliced model on recorded microbatches.

    Args:
        config: of the run; the loop ends with the ledger, whatever the schedule says.
        ledger: one step after the other, from step 0.
        threads: of this process's matrix products; set for the whole process.
        on_step: called after every step.
        device: as `NodeConfig.device`.

    Returns:
        Figures of every step, and the model after the last.
    """
    torch.set_num_threads(threads)
    whole = _WholeModel(config, Device(device, config.numerics.precision))
    steps: list[ReplayedStep] = []
    plan = 0
    before = whole.weights() if config.schedule.staleness else []
    for step, entry in enumerate(ledger):
        newest = whole.weights() if config.schedule.staleness else []
        if before and entry.plan == plan:
            whole.put(before)
        replayed = _step(whole, step, entry.items, newest)
        plan, before = entry.plan, newest
        steps.append(replayed)
        if on_step is not None:
            on_step(replayed)
    whole.model.eval()
    return Reference(tuple(steps), whole.model)


def _step(whole: _WholeModel, step: int, items: Sequence[LedgerItem], newest: Sequence[Tensor]) -> ReplayedStep:
    """Gradient on the weights that are there, applied to the newest ones, where those are others."""
    losses = [whole.count(item) for item in items]
    tokens = len(items) * whole.config.microbatch_tokens
    averaged = whole.mean_gradient(step, tokens)
    grad_norm = math.sqrt(square_norm_of(averaged))
    if newest:
        whole.put(newest)
    whole.apply(step, averaged, grad_norm)
    return ReplayedStep(step=step, tokens=tokens, mean_loss=math.fsum(losses) / tokens, grad_norm=grad_norm)
