"""How long the next bytes have to wait so that a line carries no more than its owner allows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_SAVED_S = 0.1
"""A line that was idle, or a timer that was late, is made up for by so much and no more."""


@dataclass(slots=True)
class Pace:
    """Of one direction of a line.

    Args:
        bytes_per_s: at most; 0 for as fast as it goes. It may change at any time.

    Source: the generic cell rate algorithm (ITU-T I.371, virtual scheduling).
    """

    bytes_per_s: float = 0.0
    _free_at_s: float = 0.0

    def wait_s(self, num_bytes: int, now_s: float) -> float:
        """Take a place on the line, and say in how many seconds it begins."""
        if not self.bytes_per_s:
            return 0.0
        begins_s = max(self._free_at_s, now_s - _SAVED_S)
        self._free_at_s = begins_s + num_bytes / self.bytes_per_s
        return max(0.0, begins_s - now_s)
