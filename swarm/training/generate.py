"""Text from a trained model: from a checkpoint of the run, or from an exported folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from swarm.data.tokenizer import FileTokenizer
from swarm.errors import CheckpointMissing, ConfigError
from swarm.training.assemble import assemble
from swarm.training.checkpoint import CheckpointReader, newest_checkpoint


def generate(path: Path, prompt: str, num_tokens: int, temperature: float, seed: int) -> str:
    """Continue a text.

    Args:
        path: a checkpoint, a folder of checkpoints (the newest is taken), or an exported folder.
        prompt: at least one token long.
        num_tokens: how many to add.
        temperature: of the sampling; 0 takes the likeliest token every time.
        seed: of the sampling.

    Returns:
        The prompt with its continuation.

    Raises:
        CheckpointMissing: nothing there that could be loaded.
        CheckpointCorrupt: a damaged checkpoint.
        ConfigError: an empty prompt or a negative temperature.
    """
    if temperature < 0:
        raise ConfigError(f"the temperature is {temperature}", "set it to 0 or more")
    model, tokenizer, context_tokens = _load(path)
    ids = torch.tensor([[int(token) for token in tokenizer.encode(prompt)]])
    if ids.numel() == 0:
        raise ConfigError("the prompt is empty", "give --prompt at least one character")
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for _ in range(num_tokens):
            # The window slides, because the model has never seen positions beyond its training context.
            logits: Tensor = model(input_ids=ids[:, -context_tokens:], use_cache=False).logits[:, -1]
            ids = torch.cat([ids, _sample(logits, temperature, generator)], dim=1)
    return tokenizer.decode(ids[0].tolist())


def _load(path: Path) -> tuple[Any, FileTokenizer, int]:
    if (path / "config.json").is_file():
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, use_safetensors=True)
        exported = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model.eval()
        return model, FileTokenizer((path / "tokenizer.json").read_text(encoding="utf-8")), exported.model_max_length
    if not path.is_dir():
        raise CheckpointMissing(f"there is no checkpoint and no export at {path}", "check the path")
    reader = CheckpointReader(newest_checkpoint(path))
    return assemble(reader), FileTokenizer(reader.tokenizer_json()), reader.config.data.context_tokens


def _sample(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw one token a row: [B, vocabulary] to [B, 1], int64."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)
