"""Runs small enough to build in milliseconds, of every family that the swarm promises to cut."""

from __future__ import annotations

from typing import Any

from swarm.config import BatchConfig, DataConfig, EndsConfig, OptimizerConfig, RunConfig

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 64,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "qwen3-mixed-windows": {
        "model_type": "qwen3",
        "head_dim": 8,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 3,
    },
    "mistral-sliding-window": {"model_type": "mistral", "sliding_window": 5},
    "olmo2": {"model_type": "olmo2"},
}


def run_config(family: str = "llama", *, optimizer: OptimizerConfig | None = None, **model: Any) -> RunConfig:
    """A run of a tiny model: five layers, one at each end, windows of 16 tokens, two a microbatch."""
    return RunConfig(
        name="tiny",
        admin_public_key="00",
        model={**_SIZES, **FAMILIES[family], **model},
        ends=EndsConfig(front_layers=1, back_layers=1),
        data=DataConfig(context_tokens=16, held_out_fraction=0.1),
        batch=BatchConfig(microbatch_sequences=2, global_batch_microbatches=2),
        optimizer=optimizer or OptimizerConfig(),
    )
