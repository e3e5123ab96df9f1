"""A view as Prometheus metrics. Labels are stages, phases, conditions and kinds, never peers: those are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scheduler.dashboard.alerts import KINDS, alerts
from scheduler.dashboard.view import REST, View

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_CONDITIONS = ("works", "waits", "stands by", "leaving", "left", "paused", "lost")
_EVENTS = {
    "lost": "Peers that were declared lost",
    "round_failed": "All-reduce rounds that failed and were repeated",
    "regroup": "Times that the members were gathered again",
    "warning": "Warnings",
    "plan": "Plans that were sent out",
    "checkpoint": "Checkpoints that were written",
}


class _FromView(Collector):
    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        yield from _of_run(self._view)
        yield from _of_plan(self._view)
        yield _labelled("swarm_peers", "Peers by what they do", "condition", _conditions(self._view))
        kinds = Counter(alert.kind for alert in alerts(self._view))
        yield _labelled("swarm_alerts", "Alerts of now", "kind", {str(kind): kinds[kind] for kind in KINDS})


def exposition(view: View) -> bytes:
    """The text that a Prometheus server scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FromView(view))
    return generate_latest(registry)


def _of_run(view: View) -> Iterator[Metric]:
    yield CounterMetricFamily("swarm_steps", "Optimizer steps committed", value=view.step)
    yield GaugeMetricFamily("swarm_steps_planned", "Optimizer steps of the whole run", value=view.steps)
    yield CounterMetricFamily("swarm_tokens", "Tokens of committed steps", value=view.tokens)
    if view.loss is not None and view.grad_norm is not None:
        yield GaugeMetricFamily("swarm_loss", "Mean loss of the last step, in nats a token", value=view.loss)
        yield GaugeMetricFamily("swarm_grad_norm", "Global gradient norm of the last step", value=view.grad_norm)
    yield GaugeMetricFamily("swarm_tokens_per_second", "Smoothed over the last steps", value=view.tokens_per_s)
    yield GaugeMetricFamily("swarm_step_age_seconds", "Since the last commit", value=view.step_age_s)
    yield GaugeMetricFamily("swarm_status_age_seconds", "Since the scheduler wrote its status", value=view.age_s)
    phases = CounterMetricFamily("swarm_phase_seconds", "Where steps' time went", labels=["phase"])
    for phase, seconds in sorted(view.phase_s.items()):
        phases.add_metric([phase], seconds)
    yield phases
    events = CounterMetricFamily("swarm_events", "; ".join(_EVENTS.values()), labels=["event"])
    for kind in _EVENTS:
        events.add_metric([kind], view.counts.get(kind, 0))
    yield events


def _of_plan(view: View) -> Iterator[Metric]:
    yield GaugeMetricFamily("swarm_plan_number", "Number of the plan that holds", value=view.plan)
    yield GaugeMetricFamily(
        "swarm_plan_tokens_per_second", "Predicted by the plan that holds", value=view.predicted_tokens_per_s
    )
    if view.bound_tokens_per_s:
        yield GaugeMetricFamily(
            "swarm_plan_bound_tokens_per_second", "That no plan exceeds", value=view.bound_tokens_per_s
        )
        yield GaugeMetricFamily("swarm_plan_gap_ratio", "Of the bound, that the plan may miss", value=view.gap)
    lanes = {lane.key: lane for lane in view.lanes if lane.key != REST}
    replicas = {key: len(lane.boxes) for key, lane in lanes.items()}
    yield _labelled("swarm_stage_replicas", "Peers of a stage, or data owners", "stage", replicas)
    loads = {key: lane.load for key, lane in lanes.items()}
    yield _labelled("swarm_stage_load_ratio", "Of the time, beside the slowest stage", "stage", loads)


def _conditions(view: View) -> dict[str, float]:
    found = Counter(peer.condition for peer in view.peers)
    return {condition: float(found[condition]) for condition in _CONDITIONS}  # type: ignore[index]


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
