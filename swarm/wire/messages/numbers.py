"""What every count in a message must be."""

from __future__ import annotations

LARGEST = 2**62
"""Of every count: what a database and a 64-bit integer hold without overflow."""


def natural(**values: int) -> None:
    """Refuse a negative or an absurd count; raises ValueError."""
    for name, value in values.items():
        if not 0 <= value < LARGEST:
            raise ValueError(f"{name} is {value}")
