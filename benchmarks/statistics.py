"""A middle and a spread: what every figure here is reported with."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Describe raw samples.

    Args:
        samples: in one unit, at least one.

    Returns:
        `median`, `min`, `max` and `iqr` (third quartile less the first), in that unit.
    """
    quartiles = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else [samples[0]] * 3
    return {
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "iqr": quartiles[2] - quartiles[0],
    }
