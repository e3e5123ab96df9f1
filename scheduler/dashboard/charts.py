"""What the charts show, as ECharts options. Pure; a label in words goes with each, for those who cannot see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scheduler.dashboard.theme import colour
from scheduler.dashboard.view import View
from scheduler.dashboard.words import phase_in_words

_PHASES = ("open", "closing", "reducing", "recording", "held")

Pairs = list[list[float | None]]


def loss(view: View) -> tuple[dict[str, Any], str]:
    """Mean loss over steps."""
    found: Pairs = [[point.last_step, _round(point.ratio("loss_sum", "tokens"))] for point in view.history]
    now = "no step yet" if view.loss is None else f"{view.loss:.4f} at step {view.step}"
    return _options(view, [_line("loss", found, 1)], "nats a token"), f"Loss over steps: {now}"


def throughput(view: View) -> tuple[dict[str, Any], str]:
    """Measured, what the plan predicts, and what no plan exceeds."""
    measured: Pairs = [[point.last_step, _round(point.ratio("timed_tokens", "seconds"))] for point in view.history]
    series = [
        _line("measured", measured, 1),
        _line("plan", _stairs(view.predictions, view.step), 2, dashed=True),
        _line("bound", _stairs(view.bounds, view.step), 5, dashed=True),
    ]
    words = (
        f"Throughput over steps: {view.tokens_per_s:,.0f} tokens per second measured, "
        f"{view.predicted_tokens_per_s:,.0f} planned, {view.bound_tokens_per_s:,.0f} at most"
    )
    return _options(view, series, "tokens/s"), words


def times(view: View) -> tuple[dict[str, Any], str]:
    """Where steps' time went, by the leader's phases."""
    phases = [phase for phase in _PHASES if view.phase_s.get(phase)]
    series = []
    for number, phase in enumerate(phases):
        found: Pairs = [
            [point.last_step, _round(point.sums.get(phase, 0.0) / (point.last_step - point.first_step + 1))]
            for point in view.times
        ]
        series.append(
            _line(phase_in_words(phase), found, number + 1) | {"stack": "time", "areaStyle": {"opacity": 0.35}}
        )
    total = sum(view.phase_s[phase] for phase in phases)
    shares = ", ".join(f"{phase_in_words(phase)} {view.phase_s[phase] / total:.0%}" for phase in phases)
    return _options(view, series, "s a step"), f"Where steps' time went: {shares or 'no step yet'}"


def _options(view: View, series: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    label = {":color": colour("faint"), "fontSize": 11, "hideOverlap": True}
    line = {"lineStyle": {":color": colour("edge")}}
    first = view.history[0].first_step if view.history else 0
    return {
        "animation": False,
        "grid": {"left": 8, "right": 14, "top": 42, "bottom": 4, "containLabel": True},
        "tooltip": {"trigger": "axis", "confine": True},
        "legend": {
            "type": "scroll",
            "top": 0,
            "left": 0,
            "itemWidth": 14,
            "itemHeight": 8,
            "textStyle": {":color": colour("ink"), "fontSize": 11},
            "data": [each["name"] for each in series],
        },
        "xAxis": {
            "type": "value",
            "axisLabel": label | {"showMaxLabel": False},
            "min": first,
            "max": "dataMax",
            "minInterval": 1,
            "axisLine": line,
            "splitLine": {"show": False},
        },
        "yAxis": {
            "type": "value",
            "axisLabel": label,
            "scale": unit != "s a step",
            "splitNumber": 4,
            "splitLine": line,
            "name": unit,
            "nameLocation": "end",
            "nameGap": 6,
            "nameTextStyle": {":color": colour("faint"), "fontSize": 11, "align": "left"},
        },
        "series": series,
    }


def _line(name: str, found: Pairs, number: int, *, dashed: bool = False) -> dict[str, Any]:
    shade = colour(f"series-{number}")
    return {
        "name": name,
        "type": "line",
        "data": found,
        "showSymbol": len(found) < 3 and not dashed,
        "step": "end" if dashed else False,
        "itemStyle": {":color": shade},
        "lineStyle": {":color": shade, "width": 1.5, "type": "dashed" if dashed else "solid"},
    }


def _stairs(changes: Sequence[tuple[int, float]], last_step: int) -> Pairs:
    """What held from a step on, up to now."""
    found: Pairs = [[max(step, 1), _round(value)] for step, value in changes]
    return found and [*found, [max(last_step, 1), found[-1][1]]]


def _round(value: float | None) -> float | None:
    """As many digits as anybody sees: they cross the network every second."""
    return None if value is None else float(f"{value:.5g}")
