"""Where tensors live and in which precision products are taken: the one module that knows accelerate's Accelerator."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from swarm.errors import ConfigError

_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16"}


class Device:
    """The device of this process's compute thread.

    Args:
        choice: `NodeConfig.device`: `auto`, `cpu` or `cuda`.
        precision: `NumericsConfig.precision`: `fp32` or `bf16`.

    Raises:
        ConfigError: `cuda` without a usable GPU.
    """

    def __init__(self, choice: str, precision: str) -> None:
        if choice == "cuda" and not torch.cuda.is_available():
            raise ConfigError("node.device is cuda, but PyTorch sees no GPU", "use auto or cpu, or install a driver")
        # accelerate keeps one state a process, and refuses a second one that differs.
        AcceleratorState._reset_state(reset_partial_state=True)
        self._accelerator: Any = Accelerator(cpu=choice == "cpu", mixed_precision=_MIXED_PRECISION[precision])

    @property
    def torch_device(self) -> torch.device:
        """For `Module.to` and `Tensor.to`."""
        device: torch.device = self._accelerator.device
        return device

    def autocast(self) -> AbstractContextManager[None]:
        """Around every forward pass: matrix products in the run's precision, weights stay fp32."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    def free_memory_bytes(self) -> int:
        """Memory that this process could still take on the device."""
        if self.torch_device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.torch_device)
            # Torch's allocator keeps what it freed; to us that is free as well.
            kept = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
            return int(free + kept)
        return int(psutil.virtual_memory().available)
