"""`swarm pause`, `unpause`, `leave` and `me`: what volunteers tell, and ask, the peer on their machine."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

_StateDir = Annotated[Path, typer.Option(help="The folder that the peer was started with.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
_DEFAULT = Path("~/.swarm")


def pause(state_dir: _StateDir = _DEFAULT, json: _Json = False) -> None:
    """Let the peer on this machine pause: it ends the work in hand, then takes no part until `swarm unpause`."""
    view = _ask(state_dir, "pause")
    words = {"paused": "paused", "pausing": "pausing: it works on until a step is committed without it"}
    _show(view, words.get(view["state"], f"it is {view['state']}, so it does not pause"), json)


def unpause(state_dir: _StateDir = _DEFAULT, json: _Json = False) -> None:
    """Let the peer on this machine work again after `swarm pause`; it comes back as a newcomer."""
    view = _ask(state_dir, "unpause")
    words = "at work again, as soon as a plan needs it"
    if view["state"] in ("pausing", "paused"):
        words = f"it stays {view['state']}: {view['reason']}" if view["reason"] else "at work again after the pause"
    _show(view, words, json)


def leave(
    state_dir: _StateDir = _DEFAULT,
    now: Annotated[
        bool, typer.Option("--now/--after-step", help="Leave at once: others compute its part of the open step again.")
    ] = False,
    json: _Json = False,
) -> None:
    """Let the peer on this machine leave the run and end; after the open step, so that all of its work counts."""
    view = _ask(state_dir, "leave", now=now)
    words = "left" if view["state"] == "gone" else "leaving: it works on until a step is committed without it"
    _show(view, words, json)


def me(state_dir: _StateDir = _DEFAULT, json: _Json = False) -> None:
    """Show what the peer on this machine does, and what it waits for."""
    view = _ask(state_dir, "me")
    if json:
        typer.echo(json_module.dumps(view))
        return
    from rich.console import Console
    from rich.table import Table

    from peers.self_view import as_lines

    table = Table(show_header=False, box=None)
    for row in as_lines(view):
        table.add_row(*row)
    Console().print(table)


def _ask(state_dir: Path, verb: str, **arguments: Any) -> dict[str, Any]:
    from peers.control import ask

    return ask(state_dir.expanduser(), verb, **arguments)


def _show(view: dict[str, Any], words: str, json: bool) -> None:
    typer.echo(json_module.dumps(view) if json else words)
