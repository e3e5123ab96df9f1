"""`swarm errors`: what each number means and what usually helps; ERRORS.md is the same as a page."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

from swarm.errors import SwarmError, UnknownKey, every_error, status_of

_HEAD = """# Errors

Every error that people meet is one sentence: its number, what is wrong, and what to do about it. The process's exit
status says which kind it was. The sentence knows the case and this page does not: follow the sentence first.
`swarm errors S309` shows one number. Made from `swarm/errors.py` by `make errors`.
"""


def errors(
    code: Annotated[str, typer.Argument(help="One number, such as S309; all of them without it.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page ERRORS.md.")] = False,
) -> None:
    """Show what an error's number means, and what usually helps."""
    found = [kind for kind in every_error() if code.upper() in ("", kind.code)]
    if not found:
        raise UnknownKey(f"no error has the number {code}", "see `swarm errors` for all of them")
    if markdown:
        typer.echo(page(found), nl=False)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("number", "when", "what usually helps", "exit status")
    for kind in found:
        table.add_row(kind.code, when(kind), kind.usually, str(status_of(kind.code)))
    Console().print(table)


def page(kinds: list[type[SwarmError]]) -> str:
    """Errors in the order given, a table for each kind of them."""
    lines = [_HEAD.rstrip("\n")]
    family = ""
    for kind in kinds:
        if kind.code[1] != family:
            family = kind.code[1]
            lines += ["", f"## S{family}xx: exit status {status_of(kind.code)}", ""]
            lines += ["| number | when | what usually helps |", "| --- | --- | --- |"]
        lines.append(f"| {kind.code} | {when(kind)} | {kind.usually} |")
    return "\n".join(lines) + "\n"


def when(kind: type[SwarmError]) -> str:
    """What an error says, by the first line of its description, without a full stop."""
    return inspect.getdoc(kind).partition("\n")[0].rstrip(".")  # type: ignore[union-attr]
