"""The console command: finds its verbs through entry points, prints errors as one sentence, sets the exit status."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from swarm.errors import SwarmError
from swarm.limits import limit_of

_INTERRUPTED = 130


def _verbs() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="swarm.verbs")}


class _Verbs(TyperGroup):
    """Loads a verb's package only when it is used, so that no package imports another."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(_verbs())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = _verbs().get(cmd_name)
        if entry is None:
            return None
        verb = typer.Typer(add_completion=False, rich_markup_mode=None)
        function = entry.load()
        verb.command(cmd_name, context_settings=getattr(function, "context_settings", None))(function)
        return typer.main.get_command(verb)


app = typer.Typer(cls=_Verbs, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def swarm() -> None:
    """Pretrain a model together: volunteers host layers, data owners keep their text."""


def main() -> None:
    """Run the console command."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that whatever was started is stopped
    try:
        app()
    except SwarmError as error:
        _leave(error)
    except BaseExceptionGroup as group:
        _leave_with_first(group)
    except (OSError, MemoryError, RuntimeError) as error:
        _leave_at_limit(error)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(_INTERRUPTED)


def _leave(error: SwarmError) -> None:
    typer.echo(str(error), err=True)
    sys.exit(error.exit_code)


def _leave_with_first(group: BaseExceptionGroup[BaseException]) -> None:
    """A task group reports its first error of ours; anything else is a bug and keeps its traceback."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SwarmError):
        _leave(error)
    limit = limit_of(error)
    if limit is not None:
        _leave(limit)
    raise group


def _leave_at_limit(error: Exception) -> None:
    limit = limit_of(error)
    if limit is None:
        raise error
    _leave(limit)
