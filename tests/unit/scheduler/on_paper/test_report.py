"""A report's figures are the evaluator's, its words have numbers, and it is the same every time."""

from __future__ import annotations

import json
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from scheduler.on_paper.peers_file import Model
from scheduler.on_paper.report import Report
from scheduler.on_paper.words import in_words
from scheduler.planner.evaluator import evaluate
from tests.support.paper import Planned, host, owner, planned, swarm, tiny_model

MIXED: dict[str, Any] = swarm(
    host("lab", count=3),
    host("[bold]home", count=2, layer_ms=300),
    host("phone", count=2, memory_gib=0),
    host("modem", up_mbit=0.001),
)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def mixed(model: Model) -> Planned:
    return planned(MIXED, model)


@pytest.fixture(scope="module")
def report(mixed: Planned) -> Report:
    return mixed.report()


def shown(report: Report, width: int = 80) -> str:
    console = Console(record=True, width=width, highlight=False)
    console.print(*in_words(report), sep="\n\n")
    return console.export_text()


def test_figures_are_the_evaluator_s(mixed: Planned, report: Report) -> None:
    found = evaluate(mixed.paper.instance, mixed.plan.assignment)
    assert report.tokens_per_s == found.tokens_per_s
    assert report.step_s == found.step_s == pytest.approx(found.stream_s + found.fill_s + found.sync_s)
    assert report.bound_tokens_per_s >= report.tokens_per_s
    assert report.gap == pytest.approx(1 - report.tokens_per_s / report.bound_tokens_per_s)
    assert [lane.load for lane in report.stages] == pytest.approx((found.rate / found.stage_rates).tolist())
    for lane in (report.owners, *report.stages):
        assert sum(astuple(lane.times)) == pytest.approx(report.step_s)
        assert sum(member.share for member in lane.members) == pytest.approx(1)


def test_stages_cover_the_trunk_and_every_peer_has_a_place(mixed: Planned, report: Report) -> None:
    layers = [layer for lane in report.stages for layer in range(lane.first_layer, lane.last_layer + 1)]
    assert layers == list(range(1, 7))
    names = [member.name for lane in report.stages for member in lane.members]
    names += [name for idle in report.standbys for name in idle.names]
    assert sorted(names) == sorted(mixed.paper.instance.hosts.names)


def test_who_waits_for_whom(model: Model, report: Report) -> None:
    loads = [lane.load for lane in report.stages]
    assert [lane.bottleneck for lane in report.stages] == [load > 0.999 for load in loads]
    assert any(lane.bottleneck for lane in report.stages)
    slow_owner = planned(swarm(host("lab", count=4), owners=[owner("o", ends_ms=5000)]), model).report()
    assert slow_owner.limit == "owners"
    assert slow_owner.owners.bottleneck
    assert not any(lane.bottleneck for lane in slow_owner.stages)
    assert "at the pace of the owners" in " ".join(shown(slow_owner).split())


def test_hosts_that_would_not_help_say_why(report: Report) -> None:
    idle = {each.kind: each for each in report.standbys}
    assert (idle["phone"].reason, idle["phone"].names) == ("memory", ("phone-1", "phone-2"))
    assert idle["phone"].words.startswith("memory for 0 layers, and the smallest stage has ")
    assert idle["modem"].reason == "uplink"
    assert "would lengthen a step's all-reduces by" in idle["modem"].words
    assert idle["modem"].gain_tokens_per_s < 0


def test_one_more_of_each_kind_is_ranked(report: Report) -> None:
    gains = [each.tokens_per_s for each in report.one_more]
    assert gains == sorted(gains, reverse=True)
    assert {each.kind for each in report.one_more} == {"lab", "[bold]home", "phone", "modem"}
    assert next(each for each in report.one_more if each.kind == "phone").tokens_per_s == 0


def test_words_fit_80_columns_and_names_are_no_markup(report: Report) -> None:
    text = shown(report)
    assert max(map(len, text.splitlines())) <= 80
    text = " ".join(text.split())
    for part in ("tokens/s predicted", "No plan exceeds", "<- bottleneck", "[bold]home", "2 x phone", "One more peer"):
        assert part in text, text


def test_long_names_are_shortened(model: Model) -> None:
    text = shown(planned(swarm(host("n" * 300, count=2), host("m" * 300, memory_gib=0)), model).report())
    assert max(map(len, text.splitlines())) <= 80
    assert "…" in text


def test_reports_are_the_same_every_time(model: Model, report: Report) -> None:
    again = planned(MIXED, model).report()
    assert json.dumps(again.to_dict(), allow_nan=False) == json.dumps(report.to_dict(), allow_nan=False)
    assert np.isfinite([report.tokens_per_s, report.gap]).all()
