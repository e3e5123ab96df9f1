"""What planners and limits need to know of a model. Needs neither torch nor transformers."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.model.spans import LayerSpan

_PART_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model is made of, and which layers volunteers host."""

    num_layers: int
    """Decoder layers of the whole model."""
    trunk: LayerSpan
    """The layers that volunteers host."""
    hidden_size: int
    """Width of a boundary activation."""
    vocab_size: int
    """Rows of the embedding."""
    layer_parameters: tuple[int, ...]
    """Parameters of each decoder layer."""
    ends_parameters: int
    """Parameters that owners keep: embedding, front and back layers, norm, head; tied ones once."""

    @property
    def most_part_bytes(self) -> int:
        """Of a checkpoint's part: two fp32 moments a parameter, and what names and shapes take."""
        return 8 * max(*self.layer_parameters, self.ends_parameters) + _PART_HEADER_BYTES
