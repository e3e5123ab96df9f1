"""`swarm members`, `swarm revoke`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

_RunDir = Annotated[Path, typer.Argument(help="The run's folder.")]


def members(
    run_dir: _RunDir,
    json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """List everybody who was ever admitted: since when, as what, what they do and did, and who was sent away."""
    from dataclasses import asdict

    from rich.console import Console

    from scheduler.members import everybody, table
    from scheduler.run_dir import RunDir

    found = everybody(RunDir(run_dir))
    if json:
        typer.echo(json_module.dumps([asdict(member) for member in found]))
    else:
        Console().print(table(found))


def revoke(
    run_dir: _RunDir,
    member: Annotated[str, typer.Argument(help="A peer id, or its end as `swarm members` shows it.")],
) -> None:
    """Send a member away for good: no plan counts on it, and no other member lets it in any more."""
    from scheduler.members import send_away
    from scheduler.run_dir import RunDir

    peer = send_away(RunDir(run_dir), member)
    typer.echo(f"revoked the membership of {peer}; a scheduler that runs obeys within seconds, others when they start")
