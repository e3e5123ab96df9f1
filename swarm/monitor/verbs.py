"""`swarm watch`."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

_LONGEST_PATH = 256


def watch(
    invite: Annotated[str, typer.Argument(help="The invite, or a file that holds it. It is not used up.")],
    plain: Annotated[bool, typer.Option(help="A line an announcement, instead of a picture.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Watch a run from anywhere, without taking part: what its scheduler announces, signed."""
    from pathlib import Path

    import trio

    from swarm.admission import read_invite
    from swarm.monitor.showing import JsonLines, Lines, Picture
    from swarm.monitor.watching import watch_until_stopped

    path = Path(invite)
    text = path.read_text(encoding="utf-8") if len(invite) < _LONGEST_PATH and path.is_file() else invite
    show = JsonLines() if json else Lines() if plain or not sys.stdout.isatty() else Picture()
    with show:
        trio.run(watch_until_stopped, read_invite(text, time.time()), show.notice)
