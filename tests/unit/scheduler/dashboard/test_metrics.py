"""Prometheus reads the metrics, and a swarm of any size has as many of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from scheduler.dashboard.alerts import KINDS
from scheduler.dashboard.metrics import exposition
from scheduler.dashboard.view import View
from tests.support.watched import peer_facts, seen, status

DOCKER = Path(__file__).parents[4] / "docker"


def samples(view: View) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(exposition(view).decode())
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_figures_are_those_of_the_view() -> None:
    told = {"event": "step", "step": 1, "phase_s": {"open": 2.0}}, {"event": "certified", "bound_tokens_per_s": 100.0}
    found = samples(seen(*told))
    assert found["swarm_steps_total",] == 5
    assert found["swarm_tokens_total",] == 160
    assert found["swarm_plan_bound_tokens_per_second",] == 100
    assert round(found["swarm_plan_gap_ratio",], 6) == 0.2
    assert found["swarm_phase_seconds_total", "open"] == 2
    assert found["swarm_stage_replicas", "stage-0"] == 2
    assert found["swarm_peers", "stands by"] == 1
    assert found["swarm_alerts", "one_replica"] == 1
    assert found["swarm_alerts", "step_stalled"] == 0, "that there is none is said, too"


def test_peers_add_no_series() -> None:
    many = status()["peers"] | {f"host-{number}": peer_facts() for number in range(500)}
    assert samples(seen(peers=many)).keys() == samples(seen()).keys()


def test_grafana_and_alert_rules_ask_for_metrics_that_there_are() -> None:
    told = {"event": "step", "step": 1, "phase_s": {"open": 2.0}}, {"event": "certified", "bound_tokens_per_s": 100.0}
    there = {name for name, *_ in samples(seen(*told))}
    board = json.loads((DOCKER / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries.append((DOCKER / "prometheus-alerts.yaml").read_text())
    asked = {name for query in queries for name in re.findall(r"\bswarm_\w+", query)}
    assert len(asked) > 10
    assert asked <= there
    kinds = re.findall(r'kind=~?"([\w|]+)"', queries[-1])
    assert {kind for either in kinds for kind in either.split("|")} <= set(KINDS)
