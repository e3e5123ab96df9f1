"""How long training stood still for a fault, and what was left of its speed. Pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.chaos.history import PlanShape, Step


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that struck: when, by the wall clock, and its kind."""

    at_s: float
    kind: str


@dataclass(frozen=True, slots=True)
class Absence:
    """A peer that was killed, frozen or cut off, until it was started again or let go on."""

    peer: str
    from_s: float
    until_s: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The time between two commits.

    Attributes:
        step: that ended it.
        stall_s: beyond the median step without faults; 0 or more.
        kinds: of the faults that struck in it.
        was_bereft: all members of a group were away at some moment of it, and with them the only copies of its state.
    """

    step: int
    began_at_s: float
    lasted_s: float
    stall_s: float
    kinds: tuple[str, ...]
    was_bereft: bool = False


def bereft_spans(plans: Sequence[tuple[float, PlanShape]], absences: Sequence[Absence]) -> list[tuple[float, float]]:
    """When all members of some group were away at once.

    Args:
        plans: that held, each from its time on; in order of time.
        absences: in any order.

    Returns:
        Spans of time between changes of either; neighbours are not joined.
    """
    changes = sorted({at_s for at_s, _ in plans} | {at_s for each in absences for at_s in (each.from_s, each.until_s)})
    found = []
    for began_s, ended_s in itertools.pairwise(changes):
        shape = next((shape for at_s, shape in reversed(plans) if at_s <= began_s), None)
        away = {each.peer for each in absences if each.from_s <= began_s and each.until_s >= ended_s}
        if shape is not None and any(group and group <= away for group in (*shape.stages, shape.owners)):
            found.append((began_s, ended_s))
    return found


def step_seconds(steps: Sequence[Step], from_s: float, until_s: float) -> list[float]:
    """Seconds between consecutive commits within a stretch of time."""
    times_s = [step.committed_at_s for step in steps if from_s <= step.committed_at_s <= until_s]
    return [after - before for before, after in itertools.pairwise(times_s)]


def gaps(
    steps: Sequence[Step],
    strikes: Sequence[Strike],
    usual_s: float,
    from_s: float,
    until_s: float,
    bereft: Sequence[tuple[float, float]] = (),
) -> list[Gap]:
    """Every gap between commits that touches a stretch of time; a last one that no commit ended is one, too.

    Args:
        steps: in order.
        strikes: in order.
        usual_s: the median step's time without faults.
        from_s, until_s: the stretch, by the wall clock.
        bereft: of `bereft_spans`.
    """
    times = [(step.committed_at_s, step.step) for step in steps]
    if times and times[-1][0] < until_s:
        times.append((until_s, times[-1][1] + 1))
    found = []
    for (before_s, _), (after_s, number) in itertools.pairwise(times):
        if after_s < from_s or before_s > until_s:
            continue
        kinds = tuple(strike.kind for strike in strikes if before_s < strike.at_s <= after_s)
        was_bereft = any(began_s < after_s and ended_s > before_s for began_s, ended_s in bereft)
        stall_s = max(0.0, after_s - before_s - usual_s)
        found.append(Gap(number, before_s, after_s - before_s, stall_s, kinds, was_bereft))
    return found


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that so large a share does not exceed; 0 without samples."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def stall_figures(found: Sequence[Gap]) -> dict[str, float]:
    """Percentiles of stalls in gaps in which a fault struck, the worst elsewhere, and the worst of each kind.

    Also the worst, and how many, by whether a group had lost all of its members: what it knows has to come back then.
    """
    struck = [gap.stall_s for gap in found if gap.kinds]
    figures = {
        "stall_s_p50": percentile(struck, 0.5),
        "stall_s_p99": percentile(struck, 0.99),
        "stall_s_max": max(struck, default=0.0),
        "stall_s_max_elsewhere": max((gap.stall_s for gap in found if not gap.kinds), default=0.0),
    }
    bereft = [gap.stall_s for gap in found if gap.was_bereft]
    others = [gap.stall_s for gap in found if not gap.was_bereft]
    figures |= {
        "stalls_with_a_group_away": len(bereft),
        "stall_s_max_with_a_group_away": max(bereft, default=0.0),
        "stall_s_max_with_every_group_there": max(others, default=0.0),
    }
    for kind in sorted({kind for gap in found for kind in gap.kinds}):
        alone = [gap.stall_s for gap in found if kind in gap.kinds]
        figures[f"stall_s_median_{kind}"] = statistics.median(alone)
        figures[f"stall_s_max_{kind}"] = max(alone)
    return figures


def tokens_per_s(steps: Sequence[Step], from_s: float, until_s: float) -> float:
    """Tokens committed within a stretch of time, by the second of that stretch."""
    tokens = sum(step.tokens for step in steps if from_s < step.committed_at_s <= until_s)
    return tokens / (until_s - from_s) if until_s > from_s else 0.0
