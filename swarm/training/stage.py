"""The tensors of one group's replica: a span of the trunk, or an owner's ends.

Gradients are sums over tokens, accumulated in `grad`; they are divided once, when a round is prepared. Graphs of
forwards are kept until their backward, and what a counted microbatch's passes gave until its step is over: a later
attempt at the same lease is answered with what is there, and nothing is computed twice. The lease says whose text it
is, so the answer belongs to what was counted, also where a replaced neighbour sends slightly other numbers. All methods
run on the compute thread.

With staleness 1 the microbatches of two steps run at once, each on the weights of one step before its own: two copies
of the weights, with gradient sums of their own, stand beside the newest weights, which the optimizer works on. A step
uses the copy of its parity; the commit of a step puts the new weights into that step's copy, for the step after next.
Source: PipeDream-2BW (Narayanan et al., 2021), section 3.1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from swarm.config import RunConfig
from swarm.errors import CheckpointCorrupt, MachineLimit
from swarm.model.parts import Kind, split_into_parts
from swarm.model.slices import Ends, build_ends, build_trunk_slice, named_global_parameters
from swarm.model.spans import LayerSpan
from swarm.training.device import Device
from swarm.training.kept import Kept, Key
from swarm.training.optimizer import apply, build_optimizer, load_state_tensors, state_tensors
from swarm.wire.digest import digest_of
from swarm.wire.messages import Lease, Work


@dataclass(frozen=True, slots=True)
class _Graph:
    """A forward that waits for its backward, and what it sent on."""

    hidden: Tensor
    output: Tensor
    sent: Tensor


@dataclass(frozen=True, slots=True)
class _Boundaries:
    """Of a counted microbatch, on the CPU.

    Attributes:
        hidden, gradient: what came in with the forward and the backward; they take it back.
        sent: the output and the gradient of `hidden`; they answer a replay. None where there was no room.
    """

    hidden: Tensor
    gradient: Tensor
    sent: tuple[Tensor, Tensor] | None

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.hidden, self.gradient, *(self.sent or ())))


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
        self._graphs: dict[Key, _Graph] = {}
        self._kept: Kept[_Boundaries] = Kept(keep_bytes)

    def forward(self, work: Work, hidden: Tensor) -> Tensor:
        """Compute the span and keep its graph; of a later attempt, give what an earlier one gave.

        Args:
            hidden: [sequences, tokens, hidden], fp32, CPU.

        Returns:
            The next boundary activation, same shape, fp32, CPU.
        """
        key = work.step, work.lease
        if key in self._graphs:
            return self._graphs[key].sent
        kept = self._kept.get(key)
        if kept is not None and kept.sent is not None:
            return kept.sent[0]
        with self.device.pace(self.num_layers, backward=False):
            hidden, output = self._run(work.step, hidden)
            self._graphs[key] = _Graph(hidden, output, output.detach().float().cpu())
            return self._graphs[key].sent

    def backward(self, work: Work, gradient: Tensor, *, count: bool) -> Tensor:
        """Compute the gradient of the input; with `count`, also add to the gradient sums.

        Args:
            gradient: of the output, [sequences, tokens, hidden], fp32, CPU.

        Returns:
            Gradient of the input, same shape, fp32, CPU.

        Raises:
            MachineLimit: an attempt that does not count, and there was no memory to keep what counted.
        """
        key = work.step, work.lease
        if not count:
            kept = self._kept.get(key)
            if kept is not None and kept.sent is not None:
                return kept.sent[1]
            if key not in self._graphs:
                raise MachineLimit("what was counted of a microbatch was not kept", "raise this host's memory limit")
        graph = self._graphs.pop(key)
        with self.device.pace(self.num_layers, backward=True):
            input_gradient = _backward(graph.output, graph.hidden, gradient, count=count).float().cpu()
            if count:
                self._keep(key, _Boundaries(graph.hidden.detach().cpu(), gradient, (graph.sent, input_gradient)))
            return input_gradient

    def retract(self, step: int, leases: Iterable[Lease]) -> bool:
        """Take counted microbatches of a step out of the sums by computing them again with the opposite sign.

        Returns:
            False where a boundary is no longer kept; the caller resets.
        """
        for lease in leases:
            kept = self._kept.pop((step, lease))
            if kept is None:
                return False
            hidden, output = self._run(step, kept.hidden)
            _backward(output, hidden, -kept.gradient, count=True)
        return True

    def _run(self, step: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = hidden.to(self.device.torch_device).requires_grad_()
        with self.device.autocast():
            return hidden, self.module(step)(hidden)

    def _keep(self, key: Key, boundaries: _Boundaries) -> None:
        """All of them, or what takes the microbatch back, or nothing."""
        least = _Boundaries(boundaries.hidden, boundaries.gradient, None)
        if not self._kept.put(key, boundaries, boundaries.num_bytes):
            self._kept.put(key, least, least.num_bytes)

    def _forget(self, step: int) -> None:
        _drop(self._graphs, step)
        self._kept.forget(step)


class EndsStage(Stage):
    """An owner's front and back: everything that sees text.

    Args:
        keep_bytes: host memory for boundaries of counted microbatches.
    """

    def __init__(self, config: RunConfig, device: Device, keep_bytes: int) -> None:
        super().__init__(config, device, build_ends(config))
        self._fronts: dict[Key, Tensor] = {}
        self._kept_fronts: Kept[Tensor] = Kept(keep_bytes // 2)
        self._kept_backs: Kept[tuple[float, Tensor]] = Kept(keep_bytes // 2)

    def ends(self, step: int) -> Ends:
        """What the microbatches of a step run on."""
        module = self.module(step)
        assert isinstance(module, Ends)
        return module

    def front(self, work: Work, token_ids: Tensor) -> Tensor:
        """Embedding and first layers; of a later attempt, what an earlier one gave.

        Args:
            token_ids: [sequences, tokens], int64.

        Returns:
            The first boundary activation, [sequences, tokens, hidden], fp32, CPU.
        """
        key = work.step, work.lease
        kept = self._kept_fronts.get(key)
        if kept is not None:
            return kept
        if key not in self._fronts:
            with self.device.autocast():
                self._fronts[key] = self.ends(work.step).front(token_ids.to(self.device.torch_device))
        return self._fronts[key].detach().float().cpu()

    def back(self, work: Work, hidden: Tensor, labels: Tensor, *, count: bool) -> tuple[float, Tensor]:
        """Last layers, head and loss, forward and backward; with `count`, also add to the gradient sums.

        Args:
            hidden: the last boundary activation, [sequences, tokens, hidden], fp32, CPU.
            labels: [sequences, tokens], int64.

        Returns:
            Sum of the tokens' losses, and its gradient with respect to `hidden`, fp32, CPU.
        """
        key = work.step, work.lease
        kept = self._kept_backs.get(key)
        if kept is not None and not count:
            return kept
        hidden = hidden.to(self.device.torch_device).requires_grad_()
        with self.device.autocast():
            loss_sum = self.ends(work.step).back(hidden, labels.to(self.device.torch_device))
        gradient = _backward(loss_sum, hidden, None, count=count).float().cpu()
        found = float(loss_sum.detach()), gradient
        if count:
            self._kept_backs.put(key, found, gradient.nbytes)
        return found

    def front_backward(self, work: Work, gradient: Tensor, *, count: bool) -> None:
        """The end of a microbatch's way: add the front's gradient to the sums, if it counts."""
        key = work.step, work.lease
        output = self._fronts.pop(key, None)
        if count:
            assert output is not None
            torch.autograd.backward(output, gradient.to(output.device))
            sent = output.detach().float().cpu()
            self._kept_fronts.put(key, sent, sent.nbytes)

    def _forget(self, step: int) -> None:
        _drop(self._fronts, step)
        self._kept_fronts.forget(step)
        self._kept_backs.forget(step)


def _drop(tensors: dict[Key, Any], step: int) -> None:
    """Forget what is of a step."""
    for key in [key for key in tensors if key[0] == step]:
        del tensors[key]


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
