"""The main directions of a tensor's rows: activations and their gradients lie near a space of few dimensions.

Source: randomised subspace iteration (Halko, Martinsson and Tropp, 2011).
"""

from __future__ import annotations

import functools

import torch

_SPARE = 8


def main_directions(values: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal directions that hold most of the rows' energy.

    Args:
        values: float32, (rows, columns), of magnitudes near 1.
        rank: how many, no more than rows and columns.

    Returns:
        (columns, rank), the one that holds most first, and the rows' parts of them, (rows, rank).
    """
    rows, columns = values.shape
    basis = _start(columns, min(rank + _SPARE, rows, columns))
    for _ in range(2):
        basis, _ = torch.linalg.qr(values.T @ (values @ basis))
    parts = values @ basis
    _, turn = torch.linalg.eigh(parts.T @ parts)
    turn = turn.flip(1)[:, :rank]
    return basis @ turn, parts @ turn


@functools.lru_cache(maxsize=8)
def _start(columns: int, width: int) -> torch.Tensor:
    return torch.randn(columns, width, generator=torch.Generator().manual_seed(0))
