"""Mixed precision and coarse codecs: close to fp32, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from swarm.model.blueprint import layout
from swarm.training.device import Device
from swarm.training.stage import EndsStage, TrunkStage
from swarm.wire import compression
from swarm.wire.messages import Lease, Work
from tests.support.tiny_models import run_config

WORK = Work(0, Lease(0, 0), 0)
TOKENS = 2 * 16


def gradients(precision: str, codec: str) -> tuple[float, list[torch.Tensor]]:
    """One microbatch through both stages in one process, as hosts and owner would send it."""
    config = run_config("llama")
    device = Device("cpu", precision)
    trunk = TrunkStage(config, device, layout(config).trunk, keep_bytes=0)
    ends = EndsStage(config, device, keep_bytes=0)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, layout(config).vocab_size, (2, 17), generator=generator)

    def sent(tensor: torch.Tensor) -> torch.Tensor:
        return compression.decode(codec, bytes(compression.encode(codec, tensor)), tensor.shape)

    hidden = trunk.forward(WORK, sent(ends.front(WORK, ids[:, :-1])))
    loss_sum, gradient = ends.back(WORK, sent(hidden), ids[:, 1:], count=True)
    ends.front_backward(WORK, sent(trunk.backward(WORK, sent(gradient), count=True)), count=True)
    return loss_sum / TOKENS, [*trunk.mean_gradient(WORK.step, TOKENS), *ends.mean_gradient(WORK.step, TOKENS)]


@pytest.mark.parametrize(("precision", "codec", "tolerance"), [("bf16", "bf16", 0.05), ("fp32", "int8", 0.05)])
def test_coarse_numbers_stay_close_to_fp32(precision: str, codec: str, tolerance: float) -> None:
    exact_loss, exact = gradients("fp32", "fp32")
    loss, coarse = gradients(precision, codec)
    assert abs(loss - exact_loss) < 0.01 * exact_loss
    distance = sum(float((a - b).square().sum()) for a, b in zip(coarse, exact, strict=True)) ** 0.5
    norm = sum(float(b.square().sum()) for b in exact) ** 0.5
    assert 0 < distance < tolerance * norm
    assert all(gradient.dtype == torch.float32 for gradient in coarse)
