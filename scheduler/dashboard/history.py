"""Sums over time in bounded memory: neighbouring points merge when there are too many. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_POINTS = 400
"""That a chart can show."""


@dataclass(frozen=True, slots=True)
class Point:
    """A few steps in a row.

    Attributes:
        first_step, last_step: counted from 1.
        sums: over these steps.
    """

    first_step: int
    last_step: int
    sums: Mapping[str, float]

    def ratio(self, above: str, below: str) -> float | None:
        """One sum divided by another; None where there is nothing to divide by."""
        divisor = self.sums.get(below, 0.0)
        return self.sums.get(above, 0.0) / divisor if divisor > 0 else None


@dataclass(slots=True)
class History:
    """Steps as points: one each at first, then two, four, eight.

    Args:
        most_points: at least that many divided by two are kept of a long run.
    """

    most_points: int = MOST_POINTS
    points: list[Point] = field(default_factory=list)
    _steps_a_point: int = 1
    _steps_in_last: int = 0

    def add(self, step: int, sums: Mapping[str, float]) -> None:
        """One more step.

        Args:
            step: counted from 1; steps come in order, and gaps between them are gaps in the record.
        """
        if self.points and self._steps_in_last < self._steps_a_point:
            self.points[-1] = _merged(self.points[-1], Point(step, step, sums))
            self._steps_in_last += 1
            return
        if len(self.points) >= self.most_points:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [_merged(one, other) for one, other in pairs]
            self._steps_a_point *= 2
        self.points.append(Point(step, step, dict(sums)))
        self._steps_in_last = 1


def _merged(one: Point, other: Point) -> Point:
    keys = one.sums.keys() | other.sums.keys()
    sums = {key: one.sums.get(key, 0.0) + other.sums.get(key, 0.0) for key in keys}
    return Point(one.first_step, other.last_step, sums)
