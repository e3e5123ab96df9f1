"""What a model costs on paper, before a peer has measured it: a layer as stages run it, on tensors without memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from swarm.config import RunConfig
from swarm.model.blueprint import decoder_of, skeleton
from swarm.model.layout import Layout
from swarm.training.optimizer import build_optimizer, state_tensors

_PASSES = 3
"""A backward takes two matrix products where the forward takes one."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one trunk layer, and of an owner's ends.

    Attributes:
        layer_state_bytes: weights, gradient sums and the optimizer's state of one layer.
        graph_bytes: what one layer keeps of one microbatch from its forward to its backward.
        layer_flops: forward and backward of one layer for one microbatch.
        ends_flops: forward and backward of both ends for one microbatch.
    """

    layer_state_bytes: int
    graph_bytes: int
    layer_flops: float
    ends_flops: float


def costs(config: RunConfig, layout: Layout) -> Costs:
    """Work out what peers would measure. Allocates nothing.

    Args:
        layout: of the same run.

    Raises:
        ModelUnsupported, ConfigError: as `skeleton`.
    """
    state_bytes, graph_bytes = _one_layer(config, layout)
    trunk = layout.trunk
    sizes = layout.layer_parameters
    ends = [*sizes[: trunk.first], *sizes[trunk.last :]]
    head = layout.vocab_size * layout.hidden_size
    return Costs(
        layer_state_bytes=state_bytes,
        graph_bytes=graph_bytes,
        layer_flops=_flops(config, layout, max(sizes[trunk.first : trunk.last]), 1),
        ends_flops=_flops(config, layout, sum(ends) + head, len(ends)),
    )


def _flops(config: RunConfig, layout: Layout, parameters: int, layers: int) -> float:
    """Two for each weight and token in each pass, and attention's own products, half of which are masked."""
    attention = layers * config.data.context_tokens * layout.hidden_size
    return 2.0 * _PASSES * config.microbatch_tokens * (parameters + attention)


def _one_layer(config: RunConfig, layout: Layout) -> tuple[int, int]:
    """Bytes of the first trunk layer's state, and of its graph for one microbatch."""
    decoder = decoder_of(skeleton(config))
    first = layout.trunk.first
    decoder.layers, decoder.embed_tokens, decoder.norm = decoder.layers[first : first + 1], None, nn.Identity()
    shape = (config.batch.microbatch_sequences, config.data.context_tokens, layout.hidden_size)
    half = config.numerics.precision == "bf16"
    with FakeTensorMode():
        decoder._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu"))
        named = list(decoder.named_parameters())
        kept = _Kept([parameter for _, parameter in named])
        hidden = torch.empty(shape).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, half), torch.autograd.graph.saved_tensors_hooks(kept.pack, _unpack):
            output: Tensor = decoder(inputs_embeds=hidden, use_cache=False).last_hidden_state
        torch.autograd.backward([output], [torch.empty_like(output)])
        optimizer = build_optimizer(config.optimizer, named)
        optimizer.step()
        weights = sum(parameter.nbytes for _, parameter in named)
        remembered = sum(tensor.nbytes for tensor in state_tensors(optimizer).values())
    return 2 * (1 + config.schedule.weight_copies) * weights + remembered, kept.num_bytes


class _Kept:
    """Counts storages that autograd keeps, each once and parameters not at all."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        # Storages are held, or a later one could take the place, and so the identity, of one that is gone.
        self._own = {storage._cdata: storage for storage in (each.untyped_storage() for each in parameters)}
        self._storages: dict[int, torch.UntypedStorage] = {}

    @property
    def num_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._storages[storage._cdata] = storage
        return tensor


def _unpack(tensor: Tensor) -> Tensor:
    return tensor
