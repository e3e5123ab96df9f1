"""What the join benchmark says of a ledger whose answer is known."""

from __future__ import annotations

import pytest

from benchmarks.cases.join import Joined, figures
from benchmarks.chaos.history import Counted, History, Step


def step(number: int, at_s: float, *route: str) -> Step:
    work = Counted(0, 0, 0, "o", number, 64, 1.0, route)
    return Step(number, 1, 1, 1, 64, 1.0, 1.0, at_s, (work,))


def test_figures_of_a_known_join() -> None:
    steps = [step(number, 2.0 * number, "a") for number in range(11)]  # until 20 s
    steps += [step(11 + number, 23.0 + 3.0 * number, "a") for number in range(4)]  # slower while it loads
    steps += [step(15, 33.0, "b")]
    host = Joined("b", 0.0, started_at_s=20.0, admitted_at_s=22.0, wanted_at_s=26.0, serves_at_s=32.0)
    history = History(steps=steps, versions={}, digests=[], gradients=[])
    metrics, samples = figures(history, [host], state_bytes=3_000_000, line_bytes_per_s=1e6)
    assert metrics["joiners_at_work"] == 1
    assert metrics["step_s_before"] == 2.0
    assert metrics["step_s_during"] == 3.0
    assert metrics["step_s_during_vs_before"] == pytest.approx(1.5)
    assert (metrics["start_s"], metrics["measure_s"], metrics["load_s"]) == (2.0, 4.0, 6.0)
    assert metrics["start_to_serving_s"] == 12.0
    assert metrics["load_vs_ideal"] == pytest.approx(2.0)
    assert samples["load_s"] == [6.0]
