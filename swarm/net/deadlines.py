"""How long to wait for an answer, learned from earlier answers.

Source: RFC 6298 (smoothed mean and deviation), with a floor for peers that share a busy machine.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOOR_S = 10.0
FIRST_S = 30.0


@dataclass(slots=True)
class Deadline:
    """Estimates a deadline from the durations seen so far.

    Args:
        floor_s: never less than this.
        first_s: before anything was measured.
    """

    floor_s: float = FLOOR_S
    first_s: float = FIRST_S
    _mean_s: float = 0.0
    _deviation_s: float = 0.0
    _seen: bool = False

    def observe(self, duration_s: float) -> None:
        """Take in one measured duration."""
        if not self._seen:
            self._mean_s, self._deviation_s, self._seen = duration_s, duration_s / 2, True
            return
        self._deviation_s += (abs(duration_s - self._mean_s) - self._deviation_s) / 4
        self._mean_s += (duration_s - self._mean_s) / 8

    @property
    def seconds(self) -> float:
        """Wait no longer than this."""
        if not self._seen:
            return self.first_s
        return max(self.floor_s, 4 * (self._mean_s + 4 * self._deviation_s))
