"""Whether a line is still what it was measured to be. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

GLANCE_BYTES = 256 << 10
"""Of one short transfer; all members make one to the leader every twenty seconds."""
_SLOW_S = 0.25
"""A glance that takes less says nothing against a line, however fast it was: other programs take time, too."""
SLOW_START_ROUND_TRIPS = 8
"""TCP begins with some packets and doubles them every round trip: what takes fewer of these tells the way's length."""
_MUCH = 3.0
_IN_A_ROW = 2


@dataclass(slots=True)
class LineWatch:
    """One direction of a member's line.

    Args:
        bytes_per_s: as measured and announced.
        round_trip_s: to whoever is glanced at.
    """

    bytes_per_s: float
    round_trip_s: float = 0.0
    _doubts: int = field(default=0)

    def glance(self, duration_s: float, moved_bytes: int = GLANCE_BYTES) -> bool:
        """Take in how long a glance took; whether the line has to be measured anew.

        Args:
            moved_bytes: that went over the line meanwhile, the glance's own among them: training shares the line.
        """
        rate = GLANCE_BYTES / max(duration_s, 1e-9)
        all_rate = max(moved_bytes, GLANCE_BYTES) / max(duration_s, 1e-9)
        patience_s = max(_SLOW_S, SLOW_START_ROUND_TRIPS * self.round_trip_s)
        slower = duration_s > patience_s and _MUCH * all_rate < self.bytes_per_s
        faster = rate > _MUCH * self.bytes_per_s
        self._doubts = self._doubts + 1 if slower or faster else 0
        return self._doubts >= _IN_A_ROW

    @property
    def is_doubted(self) -> bool:
        """Whether the last glance said something else than was measured."""
        return self._doubts > 0

    def measured(self, bytes_per_s: float) -> bool:
        """A whole measurement; whether the line is another one by now."""
        self._doubts = 0
        if max(bytes_per_s, self.bytes_per_s) < _MUCH * min(bytes_per_s, self.bytes_per_s):
            return False
        self.bytes_per_s = bytes_per_s
        return True
