"""The model sections that the product itself makes."""

from __future__ import annotations


def byte_llama(
    *, num_layers: int, width: int, num_heads: int, mlp_width: int, context_tokens: int
) -> dict[str, str | int]:
    """A Llama over bytes, as a run.toml's model section.

    Args:
        num_layers: of the whole model.
        width: of a boundary activation.
        num_heads: of attention; divides `width`.
        mlp_width: of the feed-forward part.
        context_tokens: longest window.
    """
    return {
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "max_position_embeddings": context_tokens,
    }
