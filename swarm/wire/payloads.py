"""What payload a message may carry, decided from its header before the payload is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from swarm.errors import ProtocolError
from swarm.wire import compression
from swarm.wire.messages import BoundaryTensor, SpeedProbe, StateChunk

MAX_PROBE_BYTES = 8 << 20
MAX_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class PayloadRules:
    """The run's own tensors.

    Args:
        shape: of a boundary activation, [sequences, tokens, hidden].
        codec: of boundary tensors.
    """

    shape: tuple[int, int, int]
    codec: str

    def check(self, message: object, payload_bytes: int) -> None:
        """Refuse a payload that the message cannot have.

        Raises:
            ProtocolError: another shape, codec or size than the run's.
        """
        if isinstance(message, BoundaryTensor):
            self._check_boundary(message, payload_bytes)
            return
        allowed = MAX_PROBE_BYTES if isinstance(message, SpeedProbe) else 0
        allowed = MAX_CHUNK_BYTES if isinstance(message, StateChunk) else allowed
        if payload_bytes > allowed:
            name = type(message).__name__
            raise ProtocolError(f"{name} carries {payload_bytes} bytes where {allowed} are allowed", "drop that peer")

    def _check_boundary(self, message: BoundaryTensor, payload_bytes: int) -> None:
        if message.shape != self.shape or message.codec != self.codec:
            raise ProtocolError(
                f"a boundary tensor is {message.codec} {message.shape}, this run's are {self.codec} {self.shape}",
                "run the same configuration everywhere",
            )
        expected = compression.encoded_bytes(self.codec, math.prod(self.shape))
        if payload_bytes != expected:
            raise ProtocolError(f"a boundary tensor has {payload_bytes} bytes, not {expected}", "drop that peer")
