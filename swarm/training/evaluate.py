"""How well an unsliced model predicts text: the loss that training and validation have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor
from transformers import PreTrainedModel

from swarm.data.sampler import take
from swarm.errors import ShardTooSmall


def loss_sum(model: PreTrainedModel, token_ids: Tensor, labels: Tensor) -> Tensor:
    """The unsliced model's loss, summed over tokens as an owner's back sums it.

    Args:
        token_ids: [B, T], int64, on the model's device.
        labels: the token that follows each position, [B, T], int64.

    Returns:
        Cross entropy in nats, summed over B and T: a scalar, fp32.
    """
    logits: Tensor = model(input_ids=token_ids, use_cache=False).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def validation_loss(
    model: PreTrainedModel, tokens: npt.NDArray[np.unsignedinteger], context_tokens: int, batch: int
) -> float:
    """Mean cross entropy over a text, cut into consecutive windows that do not overlap.

    Args:
        model: unsliced; its training or evaluation mode is left as it is.
        tokens: [tokens]; what does not fill a last window is left out.
        context_tokens: tokens a window.
        batch: windows computed at once.

    Returns:
        Nats a token.

    Raises:
        ShardTooSmall: not one window fits.
    """
    num_windows = (len(tokens) - 1) // context_tokens
    if num_windows < 1:
        raise ShardTooSmall(
            f"a window takes {context_tokens + 1} tokens, but the validation text has {len(tokens)}", "give more text"
        )
    starts = np.arange(num_windows, dtype=np.int64) * context_tokens
    total = 0.0
    with torch.inference_mode():
        for first in range(0, num_windows, batch):
            ids, labels = take(tokens, starts[first : first + batch], context_tokens)
            total += float(
                loss_sum(model, torch.from_numpy(ids).to(model.device), torch.from_numpy(labels).to(model.device))
            )
    return total / (num_windows * context_tokens)
