"""Where tensors live and in which precision products are taken: the one module that knows accelerate's Accelerator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from swarm.errors import ConfigError

_EMULATED = "emulated:"
_FORWARD_SHARE = 1 / 3
"""Of a layer's time; its backward takes two products where the forward takes one."""
_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16"}


class Device:
    """The device of this process's compute thread.

    Args:
        choice: `NodeConfig.device`.
        precision: `NumericsConfig.precision`: `fp32` or `bf16`.

    Attributes:
        problem: what it cannot do as asked, and what it does instead; empty where there is nothing to say.

    Raises:
        ConfigError: `cuda` without a usable GPU, or an emulated one that takes no number of seconds.
    """

    def __init__(self, choice: str, precision: str) -> None:
        if choice == "cuda" and not torch.cuda.is_available():
            raise ConfigError("node.device is cuda, but PyTorch sees no GPU", "use auto or cpu, or install a driver")
        self._emulated_layer_s = _emulated_layer_s(choice)
        on_cpu = choice == "cpu" or self._emulated_layer_s > 0
        # accelerate keeps one state a process, and refuses a second one that differs.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.problem = ""
        if precision == "bf16" and not _multiplies_bf16(on_cpu=on_cpu):
            precision, self.problem = "fp32", "this processor has no bf16 arithmetic: products are taken in fp32"
        self._accelerator: Any = Accelerator(cpu=on_cpu, mixed_precision=_MIXED_PRECISION[precision])

    @property
    def torch_device(self) -> torch.device:
        """For `Module.to` and `Tensor.to`."""
        device: torch.device = self._accelerator.device
        return device

    def autocast(self) -> AbstractContextManager[None]:
        """Around every forward pass: matrix products in the run's precision or a finer one, weights stay fp32."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    @contextmanager
    def pace(self, layers: int, *, backward: bool) -> Iterator[None]:
        """Around a pass through so many layers: an emulated device takes the time that it would take."""
        started_s = time.perf_counter()
        yield
        share = 1 - _FORWARD_SHARE if backward else _FORWARD_SHARE
        left_s = layers * share * self._emulated_layer_s - (time.perf_counter() - started_s)
        if left_s > 0:
            time.sleep(left_s)

    def free_memory_bytes(self) -> int:
        """Memory that this process could still take on the device."""
        if self.torch_device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.torch_device)
            # Torch's allocator keeps what it freed; to us that is free as well.
            kept = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(self.torch_device)
            return int(free + kept)
        return int(psutil.virtual_memory().available)

    def give_back(self) -> None:
        """Let other programs have the device's memory that nobody here uses any more."""
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()


def _multiplies_bf16(*, on_cpu: bool) -> bool:
    """Whether bf16 is more than a slow loop: on a processor without it, such products take 20 times as long as fp32."""
    if torch.cuda.is_available() and not on_cpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _emulated_layer_s(choice: str) -> float:
    if not choice.startswith(_EMULATED):
        return 0.0
    try:
        seconds = float(choice.removeprefix(_EMULATED))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e3:
        raise ConfigError(f"node.device is {choice}", "write emulated:0.05 for 50 ms a layer")
    return seconds
