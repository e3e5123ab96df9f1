"""What payload a message may carry, decided from its header before the payload is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from swarm.errors import ProtocolError
from swarm.wire import compression
from swarm.wire.messages import Admitted, BoundaryTensor, RecordFound, SpeedProbe, StateChunk

MAX_PROBE_BYTES = 8 << 20
MAX_CHUNK_BYTES = 512 << 10
MAX_RECORD_BYTES = 1 << 20
"""Of one step\'s compressed ledger."""
MAX_TOKENIZER_BYTES = 64 << 20

_LIMITS: dict[type, int] = {
    SpeedProbe: MAX_PROBE_BYTES,
    StateChunk: MAX_CHUNK_BYTES,
    RecordFound: MAX_RECORD_BYTES,
    Admitted: MAX_TOKENIZER_BYTES,
}


def check_payload(message: object, payload_bytes: int, rules: PayloadRules | None) -> None:
    """Refuse a payload that a message cannot have.

    Args:
        message: from the header.
        payload_bytes: as the prefix declares.
        rules: of the run's tensors; None while the run is not known, when there are none.

    Raises:
        ProtocolError: another shape, codec or size than the run's.
    """
    if isinstance(message, BoundaryTensor) and rules is not None:
        rules.check(message, payload_bytes)
        return
    allowed = _LIMITS.get(type(message), 0)
    if payload_bytes > allowed:
        name = type(message).__name__
        raise ProtocolError(f"{name} carries {payload_bytes} bytes where {allowed} are allowed", "drop that peer")


@dataclass(frozen=True, slots=True)
class PayloadRules:
    """The run's own tensors.

    Args:
        shape: of a boundary activation, [sequences, tokens, hidden].
        codecs: of boundary tensors.
    """

    shape: tuple[int, int, int]
    codecs: tuple[str, ...]

    def check(self, message: BoundaryTensor, payload_bytes: int) -> None:
        """Refuse a boundary tensor of another shape, codec or size; raises ProtocolError."""
        if message.shape != self.shape or message.codec not in self.codecs:
            ours = " or ".join(self.codecs)
            raise ProtocolError(
                f"a boundary tensor is {message.codec} {message.shape}, this run's are {ours} {self.shape}",
                "run the same configuration everywhere",
            )
        expected = compression.encoded_bytes(message.codec, math.prod(self.shape))
        if payload_bytes != expected:
            raise ProtocolError(f"a boundary tensor has {payload_bytes} bytes, not {expected}", "drop that peer")
