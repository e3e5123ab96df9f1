"""`swarm demo`."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from swarm.telemetry import Teller


def demo(
    folder: Annotated[
        Path | None, typer.Option(help="A new folder for all that the demo writes; a temporary one without it.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text to train on: a file or folder; Python's own sources without it.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 200,
    json: Annotated[Path | None, typer.Option(help="Write the final figures to this file.")] = None,
) -> None:
    """Train a small model on this machine with a real swarm: a scheduler, two data owners, four hosts."""
    from swarm.errors import ConfigError, TargetExists
    from swarm.local.demo import run_demo, write_figures

    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TargetExists(f"{folder} is not an empty folder", "give --folder a new one")
    if json is not None and not json.parent.is_dir():
        raise ConfigError(f"there is no folder {json.parent} for the figures", "make it, or give another --json")
    folder = folder or Path(tempfile.mkdtemp(prefix="swarm-demo-"))
    typer.echo(f"everything the demo writes lies in {folder}")
    typer.echo("starting a scheduler, two data owners and four hosts: seven processes that load PyTorch each")
    teller = Teller(as_json=False)

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "dashboard":
            teller.tell(event, f"dashboard at {event['url']} until the training is over")
            _open_browser(event["url"])
            return
        text = _in_words(event)
        if text:
            teller.say(text)

    try:
        figures = run_demo(folder, corpus, steps, tell)
    finally:
        teller.close()
    if json is not None:
        write_figures(figures, json)
    typer.echo(
        f"{figures.steps} steps in {figures.seconds:.0f} s, {figures.tokens_per_s:,.0f} tokens/s; "
        f"loss from {figures.first_loss:.3f} to {figures.last_loss:.3f}"
    )
    typer.echo(f"exported for transformers to {figures.export_dir}; a sample:\n\n{figures.sample}")


def _open_browser(url: str) -> None:
    """Where somebody sits at a screen."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def _in_words(event: dict[str, Any]) -> str:
    match event["event"]:
        case "waiting":
            return f"waiting for {event['for']}"
        case "building":
            return f"{event['missing']} stages are still being built"
        case "step":
            return (
                f"step {event['step']}/{event['steps']}  loss {event['loss']:.3f}  "
                f"{event['tokens_per_s']:,.0f} tokens/s  {event['eta_s']:.0f} s to go"
            )
        case "lost" | "warning" | "round_failed":
            return str(event["problem"])
        case "checkpoint":
            return f"checkpoint of step {event['step']}"
    return ""
