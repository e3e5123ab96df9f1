"""What a process has sent and received, in bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Traffic:
    """Payloads and their frames, of messages, tensors, state and all-reduces; encryption and the DHT's come on top."""

    sent_bytes: int = 0
    received_bytes: int = 0
