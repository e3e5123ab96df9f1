"""Initial weights that do not depend on who makes them: every module is seeded by the run and its global name.

A slice made on one machine therefore holds exactly the numbers that the unsliced model holds there.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from transformers import PreTrainedModel

from swarm.errors import ModelUnsupported
from swarm.model.blueprint import BUILDING, LLAMA_KIND


def materialise(model: PreTrainedModel, root: nn.Module, root_name: str, seed: int) -> None:
    """Give a module that lives on the meta device memory on the CPU and its initial values.

    Args:
        model: whose `_init_weights` decides how; it is not touched otherwise.
        root: the module to fill, with everything below it.
        root_name: its name in the unsliced model, such as `model.layers.7`.
        seed: the run's.

    Raises:
        ModelUnsupported: the model leaves a tensor of `root` without a value.
    """
    with BUILDING:
        _fill(model, root, root_name, seed)


def _fill(model: PreTrainedModel, root: nn.Module, root_name: str, seed: int) -> None:
    _allocate(root)
    # Children before parents, as transformers does, so that a parent may correct what a child did.
    for name, module in reversed(list(root.named_modules(prefix=root_name))):
        # Forked, so that making a slice leaves the caller's random numbers alone.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(_module_seed(seed, name))
            model._init_weights(module)
    root.float()
    for name, tensor in [*root.named_parameters(prefix=root_name), *root.named_buffers(prefix=root_name)]:
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ModelUnsupported(f"transformers gives {name} no initial value", LLAMA_KIND)


def _allocate(root: nn.Module) -> None:
    for module in root.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(_unset(parameter)))
        for name, buffer in list(module.named_buffers(recurse=False)):
            persistent = name not in module._non_persistent_buffers_set
            module.register_buffer(name, _unset(buffer), persistent=persistent)


def _unset(meta: torch.Tensor) -> torch.Tensor:
    # NaN, so that a tensor which nobody initialises is noticed instead of trained. Double, because torch draws normal
    # fp32 numbers by vector instructions that differ between processors in the last bit; rounding hides that.
    if meta.is_floating_point():
        return torch.full_like(meta, torch.nan, device="cpu", dtype=torch.float64)
    return torch.zeros_like(meta, device="cpu")


def _module_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}\x00{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
