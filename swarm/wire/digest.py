"""What replicas compare, and what exact clipping adds up."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import torch
from torch import Tensor


def digest_of(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over the tensors' bytes in order, hex.

    Args:
        tensors: any shapes and dtypes, on any device; copied to the CPU one at a time.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def square_norm_of(tensors: Iterable[Tensor]) -> float:
    """Sum of squares of all values, accumulated in float64."""
    return math.fsum(float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)) ** 2 for tensor in tensors)
