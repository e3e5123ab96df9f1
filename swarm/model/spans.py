"""Contiguous runs of decoder layers: what plans hand out. Pure, and free of torch."""

from __future__ import annotations

from typing import NamedTuple

Span = tuple[int, int]
"""Half-open span of decoder layers that a group holds, or `ENDS`."""
ENDS: Span = (0, 0)
"""What the owners hold together: the layers outside of the trunk, embedding, norm and head."""


class LayerSpan(NamedTuple):
    """Decoder layers `first` up to, but not including, `last`, by their global numbers."""

    first: int
    last: int

    @property
    def num_layers(self) -> int:
        """How many layers the span holds."""
        return self.last - self.first

    def contains(self, other: LayerSpan) -> bool:
        """Whether every layer of `other` is also in this span."""
        return self.first <= other.first and other.last <= self.last

    def __str__(self) -> str:
        return f"layers {self.first}..{self.last - 1}"


def overlap(span: Span, other: Span) -> bool:
    """Whether some layer, or the ends, is in both."""
    if ENDS in (span, other):
        return span == other
    return span[0] < other[1] and other[0] < span[1]
