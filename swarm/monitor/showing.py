"""Where a watcher's feed goes: a terminal's picture, lines of text, lines of JSON."""

from __future__ import annotations

import json
import time
from typing import Self

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from swarm.monitor.display import as_json, line, panel
from swarm.monitor.feed import Feed
from swarm.wire.messages import MetricsAnnounced, PlanAnnounced


class Lines:
    """One line of text each; what is the same as before is not said again."""

    def __init__(self) -> None:
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def notice(self, feed: Feed, problem: str) -> None:
        """Something was announced, or nothing can be heard for a reason."""
        text = f"nothing heard: {problem}" if problem else line(feed)
        if text and text != self._last:
            typer.echo(text)
        self._last = text


class JsonLines:
    """One object each: `metrics`, `plan` where it is another, `waiting`."""

    def __init__(self) -> None:
        self._metrics: MetricsAnnounced | None = None
        self._plan: PlanAnnounced | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def notice(self, feed: Feed, problem: str) -> None:
        """Something was announced, or nothing can be heard for a reason."""
        if problem:
            typer.echo(json.dumps({"event": "waiting", "problem": problem}))
        if feed.plan is not None and (self._plan is None or self._plan.number != feed.plan.number):
            typer.echo(json.dumps(as_json(feed.plan)))
        if feed.metrics is not None and feed.metrics is not self._metrics:
            ignored = {kind: number for kind, number in feed.counts.items() if kind != "taken"}
            typer.echo(json.dumps(as_json(feed.metrics) | {"ignored": ignored}))
        self._plan, self._metrics = feed.plan, feed.metrics


class Picture:
    """One picture that changes; also while nothing is heard, so that it says for how long."""

    def __init__(self) -> None:
        self._feed: Feed | None = None
        self._problem = ""
        self._live = Live(get_renderable=self._render, console=Console(), refresh_per_second=2)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def notice(self, feed: Feed, problem: str) -> None:
        """Something was announced, or nothing can be heard for a reason."""
        self._feed, self._problem = feed, problem

    def _render(self) -> RenderableType:
        return Text("looking for the run ...") if self._feed is None else panel(self._feed, self._problem, time.time())
