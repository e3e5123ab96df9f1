"""The tensors of one group's replica: a span of the trunk, or an owner's ends.

Gradients are sums over tokens, accumulated in `grad`; they are divided once, when a round is prepared. Graphs of
forwards are kept until their backward: nothing is computed twice. All methods run on the compute thread.

With staleness 1 the microbatches of two steps run at once, each on the weights of one step before its own: two copies
of the weights, with gradient sums of their own, stand beside the newest weights, which the optimizer works on. A step
uses the copy of its parity; the commit of a step puts the new weights into that step's copy, for the step after next.
Source: PipeDream-2BW (Narayanan et al., 2021), section 3.1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from swarm.config import RunConfig
from swarm.errors import CheckpointCorrupt
from swarm.model.parts import Kind, split_into_parts
from swarm.model.slices import Ends, build_ends, build_trunk_slice, named_global_parameters
from swarm.model.spans import LayerSpan
from swarm.training.device import Device
from swarm.training.optimizer import apply, build_optimizer, load_state_tensors, state_tensors
from swarm.wire.digest import digest_of
from swarm.wire.messages import Lease, Work

T = TypeVar("T")
_Key = tuple[int, Lease]
"""A microbatch of a step."""


@dataclass(slots=True)
class _Graph:
    """A forward that waits for its backward."""

    hidden: Tensor
    output: Tensor


@dataclass(slots=True)
class _Kept:
    """Boundaries of a counted microbatch, for taking it back."""

    hidden: Tensor
    gradient: Tensor

    @property
    def num_bytes(self) -> int:
        return self.hidden.nbytes + self.gradient.nbytes


class Stage:
    """What trunk spans and ends share: parameters, their gradient sums, their optimizer.

    Args:
        config: of the run.
        device: of the compute thread.
        module: with global parameter names.
    """

    def __init__(self, config: RunConfig, device: Device, module: nn.Module) -> None:
        self.config = config
        self.device = device
        newest = module.to(device.torch_device)
        self._named = named_global_parameters(newest)
        self._optimizer = build_optimizer(config.optimizer, self._named)
        self._copies = [copy.deepcopy(newest) for _ in range(config.schedule.weight_copies)]
        self._modules = self._copies or [newest]

    @property
    def training_bytes(self) -> int:
        """Of weights, gradients and the optimizer, for every step that runs at once."""
        weights_bytes = sum(parameter.nbytes for _, parameter in self._named)
        optimizer_bytes = sum(tensor.nbytes for tensor in state_tensors(self._optimizer).values())
        return 2 * (1 + len(self._copies)) * weights_bytes + optimizer_bytes

    def module(self, step: int) -> nn.Module:
        """What the microbatches of a step run on."""
        return self._modules[step % len(self._modules)]

    def align(self) -> None:
        """Every step that may begin now runs on the newest weights; nothing is under way."""
        for step in range(len(self._copies)):
            self._renew(step)

    def mean_gradient(self, step: int, tokens: int) -> list[Tensor]:
        """The sums that a step accumulated over `tokens` tokens, divided by them; zeros where nothing was counted.

        Returns:
            One fp32 CPU tensor a parameter; new memory.
        """
        means = []
        for parameter in self._parameters(step):
            if parameter.grad is None or tokens == 0:
                means.append(torch.zeros(parameter.shape))
            else:
                means.append((parameter.grad / tokens).cpu())
        return means

    def apply(self, step: int, averaged: Sequence[Tensor], grad_norm: float) -> None:
        """Take one optimizer step with the group's averaged gradient and forget the step's microbatches.

        Args:
            step: number of the step, from 0.
            averaged: one tensor a parameter, as `mean_gradient`.
            grad_norm: of the whole model's gradient.
        """
        for (_, parameter), gradient in zip(self._named, averaged, strict=True):
            parameter.grad = gradient.to(parameter.device).reshape(parameter.shape)
        apply(self._optimizer, self.config.optimizer, self.config.schedule, step, grad_norm)
        self.reset(step)
        if self._copies:
            self._renew(step)

    def reset(self, step: int) -> None:
        """Drop every gradient and boundary of a step: nothing of it is counted any more."""
        for parameter in self._parameters(step):
            parameter.grad = None
        self._forget(step)

    def _parameters(self, step: int) -> list[nn.Parameter]:
        """In the order of the newest weights."""
        return [parameter for _, parameter in named_global_parameters(self.module(step))]

    def _renew(self, step: int) -> None:
        with torch.no_grad():
            for parameter, (_, newest) in zip(self._parameters(step), self._named, strict=True):
                parameter.copy_(newest)

    def digest(self) -> str:
        """SHA-256 over the weights' bytes, hex; may run beside forwards and backwards, which leave weights alone."""
        return digest_of(parameter for _, parameter in self._named)

    def snapshot(self) -> dict[str, bytes]:
        """The weights and the optimizer's state, by checkpoint part, as safetensors files in memory."""
        weights = {name: parameter.detach() for name, parameter in self._named}
        return _as_files("model", weights) | _as_files("optimizer", state_tensors(self._optimizer))

    def gradient_files(self, averaged: Sequence[Tensor]) -> dict[str, bytes]:
        """An averaged gradient, by part, as safetensors files in memory.

        Args:
            averaged: one tensor a parameter, as `mean_gradient`.
        """
        tensors = {
            name: gradient.reshape(parameter.shape)
            for (name, parameter), gradient in zip(self._named, averaged, strict=True)
        }
        return _as_files("gradient", tensors)

    def in_order(self, gradients: Mapping[str, Tensor]) -> list[Tensor]:
        """An averaged gradient by global names, for `apply`; raises CheckpointCorrupt."""
        return [_of_shape(gradients, name, parameter) for name, parameter in self._named]

    def load(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Take over weights and what an optimizer remembers.

        Args:
            weights: by global name; more than ours are ignored.
            state: by `<global name>/<what>`, as `state_tensors`; empty before the first step.

        Raises:
            CheckpointCorrupt: a parameter is missing or has another shape.
        """
        with torch.no_grad():
            for name, parameter in self._named:
                parameter.copy_(_of_shape(weights, name, parameter))
        load_state_tensors(self._optimizer, state)
        self.align()

    def _forget(self, step: int) -> None:
        raise NotImplementedError


class TrunkStage(Stage):
    """A contiguous span of decoder layers.

    Args:
        span: of the trunk.
        keep_bytes: host memory for boundaries of counted microbatches.
    """

    def __init__(self, config: RunConfig, device: Device, span: LayerSpan, keep_bytes: int) -> None:
        super().__init__(config, device, build_trunk_slice(config, span))
        self.num_layers = span.num_layers
        self._keep_bytes = keep_bytes
        self._kept_bytes = 0
        self._graphs: dict[_Key, _Graph] = {}
        self._kept: dict[_Key, _Kept] = {}

    def forward(self, work: Work, hidden: Tensor) -> Tensor:
        """Compute the span and keep its graph, which replaces that of an earlier attempt.

        Args:
            hidden: [sequences, tokens, hidden], fp32, CPU.

        Returns:
            The next boundary activation, same shape, fp32, CPU.
        """
        with self.device.pace(self.num_layers, backward=False):
            hidden, output = self._run(work.step, hidden)
            self._graphs[work.step, work.lease] = _Graph(hidden, output)
            return output.detach().float().cpu()

    def backward(self, work: Work, gradient: Tensor, *, count: bool) -> Tensor:
        """Compute the gradient of the input; with `count`, also add to the gradient sums.

        Args:
            gradient: of the output, [sequences, tokens, hidden], fp32, CPU.

        Returns:
            Gradient of the input, same shape, fp32, CPU.
        """
        graph = self._graphs.pop((work.step, work.lease))
        with self.device.pace(self.num_layers, backward=True):
            input_gradient = _backward(graph.output, graph.hidden, gradient, count=count)
            if count:
                self._keep(work, graph.hidden.detach(), gradient)
            return input_gradient.float().cpu()

    def retract(self, step: int, leases: Iterable[Lease]) -> bool:
        """Take counted microbatches of a step out of the sums by computing them again with the opposite sign.

        Returns:
            False where a boundary is no longer kept; the caller resets.
        """
        for lease in leases:
            kept = self._kept.pop((step, lease), None)
            if kept is None:
                return False
            self._kept_bytes -= kept.num_bytes
            hidden, output = self._run(step, kept.hidden)
            _backward(output, hidden, -kept.gradient, count=True)
        return True

    def _run(self, step: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = hidden.to(self.device.torch_device).requires_grad_()
        with self.device.autocast():
            return hidden, self.module(step)(hidden)

    def _keep(self, work: Work, hidden: Tensor, gradient: Tensor) -> None:
        kept = _Kept(hidden.cpu(), gradient)
        if self._kept_bytes + kept.num_bytes <= self._keep_bytes:
            self._kept[work.step, work.lease] = kept
            self._kept_bytes += kept.num_bytes

    def _forget(self, step: int) -> None:
        _drop(self._graphs, step)
        self._kept_bytes -= sum(kept.num_bytes for kept in _drop(self._kept, step))


class EndsStage(Stage):
    """An owner's front and back: everything that sees text."""

    def __init__(self, config: RunConfig, device: Device) -> None:
        super().__init__(config, device, build_ends(config))
        self._fronts: dict[_Key, Tensor] = {}

    def ends(self, step: int) -> Ends:
        """What the microbatches of a step run on."""
        module = self.module(step)
        assert isinstance(module, Ends)
        return module

    def front(self, work: Work, token_ids: Tensor) -> Tensor:
        """Embedding and first layers.

        Args:
            token_ids: [sequences, tokens], int64.

        Returns:
            The first boundary activation, [sequences, tokens, hidden], fp32, CPU.
        """
        with self.device.autocast():
            output = self.ends(work.step).front(token_ids.to(self.device.torch_device))
        self._fronts[work.step, work.lease] = output
        return output.detach().float().cpu()

    def back(self, work: Work, hidden: Tensor, labels: Tensor, *, count: bool) -> tuple[float, Tensor]:
        """Last layers, head and loss, forward and backward; with `count`, also add to the gradient sums.

        Args:
            hidden: the last boundary activation, [sequences, tokens, hidden], fp32, CPU.
            labels: [sequences, tokens], int64.

        Returns:
            Sum of the tokens' losses, and its gradient with respect to `hidden`, fp32, CPU.
        """
        hidden = hidden.to(self.device.torch_device).requires_grad_()
        with self.device.autocast():
            loss_sum = self.ends(work.step).back(hidden, labels.to(self.device.torch_device))
        gradient = _backward(loss_sum, hidden, None, count=count)
        return float(loss_sum.detach()), gradient.float().cpu()

    def front_backward(self, work: Work, gradient: Tensor, *, count: bool) -> None:
        """The end of a microbatch's way: add the front's gradient to the sums, if it counts."""
        output = self._fronts.pop((work.step, work.lease))
        if count:
            torch.autograd.backward(output, gradient.to(output.device))

    def _forget(self, step: int) -> None:
        _drop(self._fronts, step)


def _drop(tensors: dict[_Key, T], step: int) -> list[T]:
    """Forget what is of a step; what that was."""
    return [tensors.pop(key) for key in [key for key in tensors if key[0] == step]]


def _backward(output: Tensor, hidden: Tensor, gradient: Tensor | None, *, count: bool) -> Tensor:
    """Gradient of `hidden`; with `count`, parameters accumulate theirs."""
    if gradient is not None:
        gradient = gradient.to(device=output.device, dtype=output.dtype)
    if not count:
        return torch.autograd.grad(output, hidden, gradient)[0]
    torch.autograd.backward(output, gradient)
    assert hidden.grad is not None
    return hidden.grad


def _as_files(kind: Kind, tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {
        part: safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in content.items()})
        for part, content in split_into_parts(kind, tensors).items()
    }


def _of_shape(tensors: Mapping[str, Tensor], name: str, parameter: Tensor) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or tensor.shape != parameter.shape:
        found = "missing" if tensor is None else f"{tuple(tensor.shape)}, not {tuple(parameter.shape)}"
        raise CheckpointCorrupt(f"the state of {name} is {found}", "fetch it from another replica")
    return tensor
