"""A tiny run for real processes, and what its end is compared with."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.training_run import FinishedRun
from swarm.model.presets import byte_llama
from swarm.training.checkpoint import CheckpointReader

STAGES = 2
STEPS = 6


def run_values(codec: str) -> dict[str, Any]:
    return {
        "name": "test",
        "model": byte_llama(num_layers=4, width=32, context_tokens=16, num_heads=2, mlp_width=64),
        "data": {"context_tokens": 16, "held_out_fraction": 0.1},
        "batch": {"microbatch_sequences": 2, "global_batch_microbatches": 6},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "warmup_steps": 2},
        "numerics": {"boundary_codec": codec},
        "schedule": {"steps": STEPS, "checkpoint_every_steps": 4},
    }


def weights_differ(done: FinishedRun, reference: dict[str, torch.Tensor]) -> float:
    reader = CheckpointReader(done.checkpoint)
    ours = {
        name: value for part in reader.parts if part.startswith("model-") for name, value in reader.part(part).items()
    }
    assert ours.keys() == reference.keys()
    return max(float((ours[name] - reference[name]).abs().max() / reference[name].abs().max()) for name in reference)
