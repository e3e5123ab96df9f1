"""The benchmark runner: options, results and figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import registry
from benchmarks.registry import Case, CaseOptions
from benchmarks.result import Result
from benchmarks.statistics import summary
from swarm.errors import ConfigError, UnknownKey


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    rounds: int = 10
    minutes: float = 1.0
    corpus: Path = Path("here")
    keep_going: bool = False


def measure(options: Options) -> Result:
    return Result.measured("invented", options, {"seconds": 2.0}, {"seconds": [1.0, 2.0, 3.0]}, warmup_rounds=2)


CASE = Case("invented", "Nothing.", Options, {"rounds": 2}, measure)


def test_options_are_read_by_name_and_type() -> None:
    given = ["--rounds", "7", "--minutes=0.5", "--corpus", "there", "--keep-going", "--seed", "3"]
    expected = Options(rounds=7, minutes=0.5, corpus=Path("there"), keep_going=True, seed=3)
    assert registry.parse(CASE, given, quick=False) == expected
    assert registry.parse(CASE, [], quick=True) == Options(rounds=2)
    assert registry.parse(CASE, ["--rounds", "7"], quick=True) == Options(rounds=7)


def test_unknown_options_and_cases_list_the_known_ones() -> None:
    with pytest.raises(UnknownKey, match="--rounds, --minutes, --corpus, --keep-going"):
        registry.parse(CASE, ["--turns", "7"], quick=False)
    with pytest.raises(UnknownKey, match="allreduce"):
        registry.load("nonsense")


@pytest.mark.parametrize("given", [["--rounds"], ["--rounds", "many"], ["--keep-going=perhaps"]])
def test_bad_values_are_refused(given: list[str]) -> None:
    with pytest.raises(ConfigError):
        registry.parse(CASE, given, quick=False)


@pytest.mark.parametrize("name", registry.case_names())
def test_every_case_has_what_the_runner_needs(name: str) -> None:
    case = registry.load(name)
    assert case.summary.endswith(".")
    assert isinstance(registry.parse(case, [], quick=True), CaseOptions)


def test_a_result_holds_the_six_facts(tmp_path: Path) -> None:
    result = measure(Options(seed=5))
    written = json.loads(result.write(tmp_path / "result.json").read_text())
    assert set(written) == {"case", "metrics", "config", "environment", "samples"}
    assert written["config"] == {**written["config"], "seed": 5, "warmup_rounds": 2, "corpus": "here"}
    assert {"commit", "dirty", "versions", "cpu_model", "cores", "threads", "date"} <= set(written["environment"])
    assert set(written["environment"]["versions"]) == {"python", "torch", "hivemind", "transformers", "numpy"}
    assert written["samples"] == {"seconds": [1.0, 2.0, 3.0]}
    assert result.write(tmp_path).name.startswith("invented_")
    assert not list(tmp_path.glob("*.partial"))


def test_a_summary_has_a_middle_and_a_spread() -> None:
    assert summary([3.0, 1.0, 2.0, 4.0, 5.0]) == {"median": 3.0, "min": 1.0, "max": 5.0, "iqr": 2.0}
    assert summary([2.0]) == {"median": 2.0, "min": 2.0, "max": 2.0, "iqr": 0.0}
