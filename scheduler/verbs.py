"""`swarm init`, `swarm invite`, `swarm scheduler`, `swarm resume`, `swarm status`."""

from __future__ import annotations

import enum
import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from swarm.telemetry import Teller

_DAY_S = 86_400.0
_INVITE_DAYS = 7.0
_INVITE_USES = 100
_PASSING = ("step", "progress")
"""Events that replace one another on a terminal."""
_SLOW_STEP_S = 3.0
"""A step that takes longer is told who it waits for."""


class Planning(enum.StrEnum):
    """Planners by name."""

    best = "best"
    uniform = "uniform"


def init(
    run_dir: Annotated[Path, typer.Argument(help="A new folder for the run.")],
    name: Annotated[str, typer.Option(help="What people call the run.")] = "swarm",
    config: Annotated[Path | None, typer.Option(help="A run.toml to start from, instead of the small default.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The consortium's tokenizer.json; bytes without it.")] = None,
) -> None:
    """Make a run: its configuration, and the admin's key that signs invites."""
    from scheduler.new_run import create

    created = create(run_dir, name, config, tokenizer)
    typer.echo(f"made run {created.name!r} in {run_dir}; edit {run_dir / 'run.toml'}, then `swarm scheduler {run_dir}`")


def invite(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder.")],
    role: Annotated[str, typer.Option(help="host, owner, or both with a comma.")] = "host",
    uses: Annotated[int, typer.Option(min=1, help="How many peers may use it.")] = 20,
    expires_days: Annotated[float, typer.Option(min=0.0, help="Days until it expires.")] = _INVITE_DAYS,
) -> None:
    """Write an invite to the standard output."""
    from scheduler.run_dir import RunDir, make_invite
    from swarm.admission import ROLES
    from swarm.errors import ConfigError

    roles = tuple(part.strip() for part in role.split(","))
    if not set(roles) <= set(ROLES):
        raise ConfigError(f"the role is {role!r}", f"use {', '.join(ROLES)}, or several with commas")
    folder = RunDir(run_dir)
    run_config = folder.load_config()
    admin = folder.load_admin(run_config)
    typer.echo(make_invite(run_config, admin, folder.addresses(), roles, uses, expires_days * _DAY_S))


_Hosts = Annotated[int, typer.Option(min=1, help="Begin when so many hosts are here.")]
_Owners = Annotated[int, typer.Option(min=1, help="Begin when so many data owners are here.")]
_Stages = Annotated[int, typer.Option(min=0, help="Cut the trunk into so many stages; 0: the planner decides.")]
_Planner = Annotated[Planning, typer.Option(help="How peers are placed; uniform, for comparison.")]
_Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="TCP port to listen on; 0 lets the system choose.")]
_Invites = Annotated[Path | None, typer.Option(help="Write invites here, instead of into the run's folder.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def scheduler(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder, from `swarm init`.")],
    hosts: _Hosts = 2,
    owners: _Owners = 1,
    stages: _Stages = 0,
    planner: _Planner = Planning.best,
    host: _Host = "127.0.0.1",
    port: _Port = 0,
    invites: _Invites = None,
    json: _Json = False,
) -> None:
    """Run the admin's node: admit peers, plan, lead the steps, keep the audit log and the checkpoints."""
    _lead(run_dir, hosts, owners, stages, planner, host, port, invites, json, resume=False)


def resume(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run that was stopped or killed.")],
    hosts: _Hosts = 2,
    owners: _Owners = 1,
    stages: _Stages = 0,
    planner: _Planner = Planning.best,
    host: _Host = "127.0.0.1",
    port: _Port = 0,
    invites: _Invites = None,
    json: _Json = False,
) -> None:
    """Go on with a run at its newest checkpoint, on any number of peers; they join again as they did."""
    _lead(run_dir, hosts, owners, stages, planner, host, port, invites, json, resume=True)


def _lead(
    run_dir: Path,
    hosts: int,
    owners: int,
    stages: int,
    planner: Planning,
    host: str,
    port: int,
    invites: Path | None,
    json: bool,
    *,
    resume: bool,
) -> None:
    from scheduler.run_dir import RunDir, make_invite

    folder = RunDir(run_dir)
    folder.load_admin(folder.load_config())  # a missing run is told at once, not after seconds of loading libraries

    import uvloop

    from scheduler.node import Node, opened
    from scheduler.planner.heuristic import certified_plan
    from scheduler.planner.uniform import uniform_plan
    from scheduler.text import in_words
    from swarm.durable import replacing
    from swarm.signals import until_stopped

    teller = Teller(json)

    def tell(event: dict[str, Any]) -> None:
        if json or event["event"] not in _PASSING:
            teller.tell(event, in_words(event))
        elif event["event"] == "step" or event["since_s"] > _SLOW_STEP_S:
            teller.say(in_words(event))

    def write_invites(node: Node) -> None:
        with replacing(folder.address) as file:
            file.write("\n".join(node.addresses).encode())
        target = invites or folder.invites
        target.mkdir(parents=True, exist_ok=True)
        paths = {}
        for role in ("host", "owner"):
            text = make_invite(node.config, node.admin, node.addresses, (role,), _INVITE_USES, _INVITE_DAYS * _DAY_S)
            paths[role] = target / f"{role}.txt"
            with replacing(paths[role]) as file:
                file.write(text.encode())
            paths[role].chmod(0o600)  # whoever can read an invite can join
        tell(
            {"event": "listening", "addresses": list(node.addresses), "invites": {k: str(v) for k, v in paths.items()}}
        )

    async def main() -> None:
        plan = certified_plan if planner is Planning.best else uniform_plan
        async with opened(folder, host, port, hosts, owners, stages, plan, resume, tell) as node:
            write_invites(node)
            await node.run()
            tell({"event": "finished", "checkpoint": node.status.checkpoint})

    try:
        uvloop.run(until_stopped(main()))
    finally:
        teller.close()


def status(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder.")],
    json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
) -> None:
    """Show how far a run is, who takes part, and who waits for whom."""
    from scheduler.run_dir import RunDir
    from scheduler.text import status_table
    from swarm.errors import RunError

    folder = RunDir(run_dir)
    folder.load_config()
    if not folder.status.exists():
        raise RunError(f"the run in {run_dir} was never started", f"start `swarm scheduler {run_dir}`")
    try:
        found = json_module.loads(folder.status.read_bytes())
    except ValueError:
        raise RunError(f"{folder.status} is damaged", "remove it; the scheduler writes it every second") from None
    if json:
        typer.echo(json_module.dumps(found))
    else:
        from rich.console import Console

        Console().print(*status_table(found))
