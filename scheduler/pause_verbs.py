"""`swarm pause-run`, `swarm unpause-run`: planned maintenance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_RunDir = Annotated[Path, typer.Argument(help="The run's folder, at the scheduler that leads.")]


def pause_run(run_dir: _RunDir) -> None:
    """Pause the run after the step under way: members stay, and are told why they wait."""
    from scheduler.run_dir import RunDir
    from swarm.durable import keeping

    folder = RunDir(run_dir)
    folder.load_config()
    with keeping(folder.paused):
        pass  # that the file is there says it
    typer.echo(f"no step begins after the one under way, also after restarts, until `swarm unpause-run {run_dir}`")


def unpause_run(run_dir: _RunDir) -> None:
    """Let a paused run go on."""
    from scheduler.run_dir import RunDir

    folder = RunDir(run_dir)
    folder.load_config()
    folder.paused.unlink(missing_ok=True)
    typer.echo("a scheduler that runs begins the next step within seconds")
