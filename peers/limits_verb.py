"""`swarm limits`: what the peer on this machine may take, and when."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from peers.limits import Limits

_MIB = 1 << 20
_GIB = 1 << 30
_MBIT = 1e6 / 8


def limits(
    state_dir: Annotated[Path, typer.Option(help="The folder that the peer is started with.")] = Path("~/.swarm"),
    memory_mib: Annotated[int | None, typer.Option(help="Use at most this much memory; 0: no limit.")] = None,
    up_mbit: Annotated[float | None, typer.Option(help="Send at most so many Mbit/s; 0: no limit.")] = None,
    down_mbit: Annotated[float | None, typer.Option(help="Receive at most so many Mbit/s; 0: no limit.")] = None,
    daily_gib: Annotated[float | None, typer.Option(help="Send and receive so much a day; 0: no limit.")] = None,
    hours: Annotated[str | None, typer.Option(help="Work between these times only, such as 22-7; '': always.")] = None,
    only_when_idle: Annotated[bool | None, typer.Option(help="Work while nobody else uses the machine only.")] = None,
    only_on_mains: Annotated[bool | None, typer.Option(help="Do not work on the battery.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show or change what the peer on this machine may take, and when; it obeys at once, and after every start."""
    from peers.limits_file import keep_limits, load_limits

    folder = state_dir.expanduser()
    changes: dict[str, Any] = {
        "memory_bytes": None if memory_mib is None else memory_mib * _MIB,
        "up_bytes_per_s": None if up_mbit is None else up_mbit * _MBIT,
        "down_bytes_per_s": None if down_mbit is None else down_mbit * _MBIT,
        "daily_bytes": None if daily_gib is None else int(daily_gib * _GIB),
        "hours": hours,
        "only_when_idle": only_when_idle,
        "only_on_mains": only_on_mains,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    now = replace(load_limits(folder), **changes)
    news = ""
    if changes:
        keep_limits(folder, now)
        news = _tell(folder)
    if json:
        typer.echo(json_module.dumps(asdict(now)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for row in as_lines(now):
        table.add_row(*row)
    Console().print(table)
    if news:
        typer.echo(news)


def _tell(folder: Path) -> str:
    """Whether a running peer knows, for people."""
    from peers.control import ask
    from swarm.errors import NotRunning

    try:
        view = ask(folder, "limits")
    except NotRunning as error:
        return f"kept for the next start: {error.problem}"
    return f"the peer is {view['state']}" + (f": {view['reason']}" if view["reason"] else "")


def as_lines(limits: Limits) -> list[tuple[str, str]]:
    """As rows of a table."""
    return [
        ("memory", f"{limits.memory_bytes / _MIB:,.0f} MiB" if limits.memory_bytes else "what is free"),
        ("uplink", _rate(limits.up_bytes_per_s)),
        ("downlink", _rate(limits.down_bytes_per_s)),
        ("a day", f"{limits.daily_bytes / _GIB:g} GiB" if limits.daily_bytes else "any amount"),
        ("hours", limits.hours or "always"),
        ("only when idle", "yes" if limits.only_when_idle else "no"),
        ("only on mains", "yes" if limits.only_on_mains else "no"),
    ]


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / _MBIT:g} Mbit/s" if bytes_per_s else "any rate"
