"""Device and precision."""

from __future__ import annotations

import pytest
import torch

import swarm.training.device
from swarm.errors import ConfigError
from swarm.training.device import Device


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_taken_in_the_runs_precision(precision: str, dtype: torch.dtype) -> None:
    device = Device("cpu", precision)
    assert device.torch_device.type == "cpu"
    with device.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.usefixtures("bf16")
def test_two_devices_in_one_process_keep_their_precision() -> None:
    exact, mixed = Device("cpu", "fp32"), Device("cpu", "bf16")
    with exact.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with mixed.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_processor_without_bf16_takes_products_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm.training.device, "_multiplies_bf16", lambda on_cpu: False)
    device = Device("cpu", "bf16")
    with device.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert "no bf16" in device.problem
    assert not Device("cpu", "fp32").problem


def test_free_memory_is_measured() -> None:
    assert Device("auto", "fp32").free_memory_bytes() > 0


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no GPU"):
        Device("cuda", "fp32")
