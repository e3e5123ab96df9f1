"""A report in words and tables, for a terminal of 80 columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scheduler.on_paper.growth import OneMore
from scheduler.on_paper.report import OWNERS, Lane, Member, Report, seconds

_LONGEST_NAME = 28
_NAMED = 3
"""Stages that are waited for; beyond, they are counted."""
_HARDLY = 1e-4
"""A smaller share is not worth telling."""
_TIMES = ("compute", "line", "memory", "fill", "reduce", "idle")
_BOTTLENECK = "bold red"


def in_words(report: Report) -> list[RenderableType]:
    """What `swarm plan` prints, paragraph after paragraph."""
    paragraphs: list[RenderableType] = [Text(_headline(report)), _placement(report), _times(report)]
    if report.standbys:
        rows = ((shorter(some(idle.kind, idle.names)), idle.words) for idle in report.standbys)
        paragraphs.append(_listing("These stand by:", rows))
    if report.badly_used:
        waiting = ((shorter(some(each.kind, each.names)), each.words) for each in report.badly_used)
        paragraphs.append(_listing("These wait more than they compute:", waiting))
    if report.one_more:
        gains = ((shorter(each.kind), _gain(each, report)) for each in report.one_more)
        paragraphs.append(_listing("One more peer would bring:", gains))
    paragraphs += [Text(f"note: {note}") for note in report.notes]
    return paragraphs


def bottleneck(report: Report) -> str:
    """What the swarm waits for, as the end of a sentence."""
    parts = ["the owners"] if report.owners.bottleneck else []
    slowest = [_part(lane) for lane in report.stages if lane.bottleneck]
    parts += slowest if len(slowest) <= _NAMED else [f"{len(slowest)} of {len(report.stages)} stages"]
    if not parts:
        return "the links between regions"
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def layers_of(lane: Lane) -> str:
    """A stage's first and last layer."""
    one = lane.first_layer == lane.last_layer
    return f"{lane.first_layer}" if one else f"{lane.first_layer}-{lane.last_layer}"


def some(kind: str, names: Sequence[str]) -> str:
    """Peers of one kind: how many, or which one."""
    return names[0] if len(names) == 1 else f"{len(names):,} x {kind}"


def shorter(name: str) -> str:
    """A name that leaves room for others."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _headline(report: Report) -> str:
    hosts = sum(len(lane.members) for lane in report.stages)
    idle = sum(len(each.names) for each in report.standbys)
    parts = (
        f"{seconds(report.stream_s)} at the pace of {bottleneck(report)}",
        f"{seconds(report.fill_s)} to fill and drain the pipeline",
        f"{seconds(report.sync_s)} in all-reduces",
    )
    return (
        f"{_rate(report.tokens_per_s)} predicted: {_count(hosts, 'host')} in {_count(len(report.stages), 'stage')}, "
        f"{_count(len(report.owners.members), 'owner')}, {idle:,} standing by. No plan exceeds "
        f"{_rate(report.bound_tokens_per_s)}, so this one misses at most {report.gap:.1%}.\n"
        f"A step takes {seconds(report.step_s)}: {', '.join(parts[:2])}, and {parts[2]}."
    )


def _placement(report: Report) -> Table:
    table = Table("part", "layers", "who (share of the part's work)", "load", box=box.SIMPLE_HEAD, pad_edge=False)
    for lane in (report.owners, *report.stages):
        layers = "the ends" if lane.number == OWNERS else layers_of(lane)
        load = f"{lane.load:.0%}" + (" <- bottleneck" if lane.bottleneck else "")
        style = _BOTTLENECK if lane.bottleneck else ""
        table.add_row(_part(lane), layers, Text(_who(lane.members)), load, style=style)
    return table


def _times(report: Report) -> Table:
    table = Table("share of a step", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _TIMES:
        table.add_column(name, justify="right")
    for lane in (report.owners, *report.stages):
        cells = (f"{value_s / report.step_s:.0%}" for value_s in astuple(lane.times))
        table.add_row(_part(lane), *cells, style=_BOTTLENECK if lane.bottleneck else "")
    return table


def _part(lane: Lane) -> str:
    return "owners" if lane.number == OWNERS else f"stage {lane.number}"


def _who(members: Sequence[Member]) -> str:
    """Members by kind, with the kind's share."""
    by_kind: dict[str, list[Member]] = {}
    for member in members:
        by_kind.setdefault(member.kind, []).append(member)
    return ", ".join(
        f"{shorter(some(kind, [each.name for each in group]))} ({sum(each.share for each in group):.0%})"
        for kind, group in by_kind.items()
    )


def _listing(title: str, rows: Iterable[tuple[str, str]]) -> Group:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    for name, words in rows:
        table.add_row(Text(f"  {name}"), Text(words))
    return Group(Text(title), table)


def _gain(one: OneMore, report: Report) -> str:
    now, staying = report.tokens_per_s, one.staying_tokens_per_s
    if one.tokens_per_s <= _HARDLY * now:
        return "nothing"
    best = f"{_rate(one.tokens_per_s)} ({one.tokens_per_s / now:+.1%})"
    if staying >= (1 - _HARDLY) * one.tokens_per_s:
        return f"{best}, the others staying where they are"
    return f"{best} in a new plan; {_rate(staying) if staying > _HARDLY * now else 'nothing'} in this one"


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 100 else f"{tokens_per_s:.3g} tokens/s"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
