"""A minute of everything at once: every kind of fault that is possible here, by the schedule of a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases.chaos import QUICK, Options, run

pytestmark = pytest.mark.usefixtures("warm_starts")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_minute_of_chaos_breaks_no_promise(tmp_path: Path, seed: int) -> None:
    values: dict[str, Any] = {**QUICK, "seed": seed, "folder": str(tmp_path)}
    result = run(Options(**values))
    assert result.metrics["faults"] >= 3
    assert result.metrics["promises_broken"] == [], result.metrics
