"""`swarm doctor`."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from swarm.config import NodeConfig

_MIB = 1 << 20


def doctor(
    invite: Annotated[str, typer.Argument(help="The invite, or a file that holds it; without it: this machine.")] = "",
    state_dir: Annotated[Path, typer.Option(help="The folder that the peer is started with.")] = Path("~/.swarm"),
    host: Annotated[str, typer.Option(help="Address to listen on, as for `swarm join`.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on, as for `swarm join`.")] = 0,
    memory_mib: Annotated[int, typer.Option(help="As for `swarm join`.")] = 0,
    device: Annotated[str, typer.Option(help="As for `swarm join`.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Look at everything that a peer on this machine needs; the exit status says whether it could work."""
    from peers.verbs import read_invite_argument

    node = NodeConfig(
        state_dir=state_dir.expanduser(),
        listen_host=host,
        listen_port=port,
        memory_bytes=memory_mib * _MIB,
        device=device,
    )
    text = read_invite_argument(invite) if invite else ""

    import uvloop
    from rich.console import Console
    from rich.table import Table

    from peers.doctor import examine
    from peers.findings import Finding, exit_status

    async def look() -> list[Finding]:
        found = []
        async for finding in examine(node, text):
            found.append(finding)
            if json:
                typer.echo(json_module.dumps(finding.as_json()))
        return found

    found = uvloop.run(look())
    if not json:
        table = Table("what", "", "found", "what to do")
        for each in found:
            remedy = f"[{each.code}] {each.remedy}" if each.code else each.remedy
            table.add_row(each.what, each.verdict, each.text, remedy.replace("[", r"\["))
        Console().print(table)
    raise typer.Exit(exit_status(found))
