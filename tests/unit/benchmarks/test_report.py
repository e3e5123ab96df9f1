"""The report: the newest result of every case on one page, and nothing of it is taken for HTML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report.page import write_report
from benchmarks.report.plots import PLOTS
from swarm.errors import ConfigError

SPREAD = {"median": 2.0, "min": 1.0, "max": 3.0, "iqr": 0.5}
SYSTEMS = ("ideal", "one_process", "torch_1f1b", "stateless_relay", "swarm")
POINT = {"ratio": 1.0, "delay_ms": 0.0, "codec": "bf16", "utilisation": 0.5, "bound": 1.0}
METRICS: dict[str, dict[str, Any]] = {
    "throughput": {f"{system}_tokens_per_s{suffix}": SPREAD for system in SYSTEMS for suffix in ("", "_bf16")},
    "wan": {"points": [POINT, POINT | {"ratio": 2.0}, POINT | {"delay_ms": 50.0}]},
    "step-overhead": {"phase_ms": {"open": 50.0, "closing": 5.0}},
    "chaos": {"stall_s_median_kill_host": 1.0, "stall_s_max_kill_host": 2.0},
    "planner": {
        "synthetic": [{"family": "home", "peers": 16, "gap": 0.02}, {"family": "home", "peers": 64, "gap": 0.01}]
    },
    "codecs": {"int8_loss_gap": 0.001, "int8_bits_per_value": 8.25, "best_ratio_loss_gap": 0.001},
}


def keep(folder: Path, case: str, date: str, metrics: dict[str, Any], cpu: str = "cpu") -> None:
    environment = {"commit": "0" * 40, "date": date, "cpu_model": cpu, "cores": 2, "dirty": False}
    result = {"case": case, "metrics": metrics, "environment": environment, "config": {}, "samples": {}}
    (folder / f"{case}_{date}.json").write_text(json.dumps(result))


def test_every_case_with_a_picture_has_one_on_the_page_and_beside_it(tmp_path: Path) -> None:
    for case, metrics in METRICS.items():
        keep(tmp_path, case, "2026-11-25", metrics)
    assert METRICS.keys() == PLOTS.keys()
    page, *pictures = write_report(tmp_path, tmp_path / "report.html")
    assert [path.name for path in pictures] == [f"report-{case}.png" for case in PLOTS]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert page.read_text().count("data:image/png;base64,") == len(PLOTS)


def test_the_newest_result_counts_and_names_are_text(tmp_path: Path) -> None:
    keep(tmp_path, "equivalence", "2026-11-24", {"steps": 111})
    keep(tmp_path, "equivalence", "2026-11-25", {"steps": 222, "<script>": 1}, cpu="<b>cpu</b>")
    text = write_report(tmp_path, tmp_path / "report.html")[0].read_text()
    assert "222" in text
    assert "111" not in text
    assert "<script>" not in text
    assert "<b>" not in text


def test_what_is_no_result_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    with pytest.raises(ConfigError, match="no results"):
        write_report(tmp_path, target)
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"other\.json is not a result"):
        write_report(tmp_path, target)
    assert not target.exists()


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    keep(tmp_path, "equivalence", "2026-11-25", {"steps": 1})
    with pytest.raises(ConfigError, match="choose another --out"):
        write_report(tmp_path, tmp_path / "nowhere" / "report.html")
