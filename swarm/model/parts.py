"""The pieces in which state is kept and sent: one a decoder layer and kind, and one for the rest of the ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeVar

from swarm.model.spans import ENDS, LayerSpan, Span

Kind = Literal["model", "optimizer", "gradient"]
T = TypeVar("T")

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def part_name(kind: Kind, tensor_name: str) -> str:
    """The part that a tensor belongs to, such as `model-00007` or `optimizer-ends`."""
    layer = _LAYER.search(tensor_name)
    return _layer_part(kind, int(layer[1])) if layer else f"{kind}-ends"


def split_into_parts(kind: Kind, tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Sort tensors, by global name, by the part they belong to."""
    parts: dict[str, dict[str, T]] = {}
    for name, tensor in tensors.items():
        parts.setdefault(part_name(kind, name), {})[name] = tensor
    return parts


def parts_of(kind: Kind, span: Span, trunk: LayerSpan, num_layers: int) -> list[str]:
    """The parts that a group holds.

    Args:
        span: of the group, or `ENDS`.
        trunk: the layers that are not the owners'.
        num_layers: of the whole model.
    """
    if span != ENDS:
        return [_layer_part(kind, layer) for layer in range(*span)]
    own_layers = [layer for layer in range(num_layers) if not trunk.first <= layer < trunk.last]
    return [*(_layer_part(kind, layer) for layer in own_layers), f"{kind}-ends"]


def _layer_part(kind: Kind, layer: int) -> str:
    return f"{kind}-{layer:05d}"
