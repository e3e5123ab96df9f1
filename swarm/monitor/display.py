"""A run as `swarm watch` shows it: a line, a panel, or plain values. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from swarm.monitor.feed import Feed
from swarm.wire.messages import MetricsAnnounced, PlanAnnounced
from swarm.words import duration, short

SILENT_S = 10.0
"""Ten announcements that did not come."""
_MOST_NAMED = 8


def as_json(body: MetricsAnnounced | PlanAnnounced) -> dict[str, Any]:
    """An announcement as plain values, without the certificate that came with it."""
    values = dataclasses.asdict(body)
    del values["certificate"]
    if isinstance(body, PlanAnnounced):
        return {"event": "plan"} | values
    return {"event": "metrics"} | values | {"loss": body.loss[0] if body.loss else None}


def line(feed: Feed) -> str:
    """The run in one line; empty before anything was heard."""
    metrics = feed.metrics
    if metrics is None:
        return ""
    loss = f"  loss {metrics.loss[0]:.4f}" if metrics.loss else ""
    return (
        f"step {metrics.step}/{metrics.steps}{loss}  {metrics.tokens_per_s:,.0f} tokens/s  {metrics.phase}  "
        f"{metrics.num_hosts} hosts, {metrics.num_owners} owners{_plan_in_words(feed.plan)}"
    )


def panel(feed: Feed, problem: str, now_s: float) -> RenderableType:
    """The run as a picture that replaces the one before.

    Args:
        problem: why nothing is heard; empty where something is.
        now_s: since 1970.
    """
    metrics = feed.metrics
    if metrics is None:
        return Text(problem or "listening ...")
    facts = Table.grid(padding=(0, 2))
    facts.add_row("step", f"{metrics.step:,} of {metrics.steps:,}", _state(feed, metrics, now_s))
    facts.add_row("loss", f"{metrics.loss[0]:.4f}" if metrics.loss else "none yet", f"{metrics.tokens:,} tokens so far")
    facts.add_row("tokens/s", f"{metrics.tokens_per_s:,.0f}", f"{duration(metrics.eta_s)} to go")
    facts.add_row("here", f"{metrics.num_hosts} hosts", f"{metrics.num_owners} owners")
    parts: list[RenderableType] = [facts, ProgressBar(total=max(1, metrics.steps), completed=metrics.step)]
    if feed.plan is not None:
        parts.append(_plan_table(feed.plan))
    parts += [Text(f"! {alert}", style="yellow") for alert in metrics.alerts]
    ignored = {kind: number for kind, number in feed.counts.items() if kind != "taken"}
    if ignored:
        parts.append(Text("ignored: " + ", ".join(f"{number} {kind}" for kind, number in ignored.items()), style="dim"))
    if problem:
        parts.append(Text(problem, style="red"))
    return Panel(Group(*parts), title=Text(f"run {metrics.run}"), title_align="left")


def _state(feed: Feed, metrics: MetricsAnnounced, now_s: float) -> str:
    silent_s = now_s - feed.heard_at_s
    if silent_s > SILENT_S and metrics.phase != "finished":
        return f"nothing heard for {duration(silent_s)}"
    waits = f", waits for {', '.join(map(short, metrics.waiting_for[:_MOST_NAMED]))}" if metrics.waiting_for else ""
    return metrics.phase + waits


def _plan_in_words(plan: PlanAnnounced | None) -> str:
    if plan is None:
        return ""
    bound = f", at most {plan.gap:.0%} below the bound" if plan.bound_tokens_per_s else ""
    return f"  plan {plan.number}: {len(plan.stages)} stages, {plan.predicted_tokens_per_s:,.0f} tokens/s{bound}"


def _plan_table(plan: PlanAnnounced) -> Table:
    bound = f", none exceeds {plan.bound_tokens_per_s:,.0f} (gap {plan.gap:.1%})" if plan.bound_tokens_per_s else ""
    title = f"plan {plan.number}: {plan.predicted_tokens_per_s:,.0f} tokens/s predicted{bound}"
    table = Table("part", "layers", "peers", title=title, title_justify="left")
    table.add_row("owners", "both ends", _named(plan.owners))
    for number, stage in enumerate(plan.stages):
        table.add_row(f"stage {number}", f"{stage.first_layer}-{stage.last_layer - 1}", _named(stage.hosts))
    return table


def _named(peers: tuple[str, ...]) -> str:
    more = len(peers) - _MOST_NAMED
    return ", ".join(map(short, peers[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
