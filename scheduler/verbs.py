"""`swarm init`, `swarm invite`, `swarm scheduler`, `swarm resume`, `swarm status`, `swarm dashboard`."""

from __future__ import annotations

import enum
import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

_DAY_S = 86_400.0
_INVITE_DAYS = 7.0
_LONGEST_PATH = 256


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
_Stages = Annotated[
    int,
    typer.Option(
        min=0,
        help="Cut the trunk into so many stages; 0: the planner decides. It also does while hosts are lost and "
        "too few for two a stage.",
    ),
]
_Planner = Annotated[Planning, typer.Option(help="How peers are placed; uniform, for comparison.")]
_Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="TCP port to listen on; 0 lets the system choose.")]
_Invites = Annotated[Path | None, typer.Option(help="Write invites here, instead of into the run's folder.")]
_Standby = Annotated[
    str, typer.Option(help="Stand by for the scheduler that leads: an invite with the role scheduler, or its file.")
]
_Dashboard = Annotated[
    str,
    typer.Option(help="Show the run to browsers at [HOST:]PORT; port 0 takes a free one. Needs a token off loopback."),
]
_Relay = Annotated[
    bool, typer.Option("--relay", help="Carry traffic to members behind routers that nobody can dial; members only.")
]
_Monitor = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="TCP port of the announcements for `swarm watch`. By default a free one, and none on loopback.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def scheduler(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder, from `swarm init`; of a standby: one of its own.")],
    hosts: _Hosts = 2,
    owners: _Owners = 1,
    stages: _Stages = 0,
    planner: _Planner = Planning.best,
    host: _Host = "127.0.0.1",
    port: _Port = 0,
    invites: _Invites = None,
    standby: _Standby = "",
    dashboard: _Dashboard = "",
    monitor: _Monitor = None,
    relay: _Relay = False,
    json: _Json = False,
) -> None:
    """Run the admin's node: admit peers, plan, lead the steps, keep the audit log and the checkpoints."""
    _serve(run_dir, standby, hosts, owners, stages, planner, host, port, invites, dashboard, monitor, relay, json)


def resume(
    run_dir: Annotated[Path, typer.Argument(help="The folder of a run that was stopped or killed.")],
    hosts: _Hosts = 2,
    owners: _Owners = 1,
    stages: _Stages = 0,
    planner: _Planner = Planning.best,
    host: _Host = "127.0.0.1",
    port: _Port = 0,
    invites: _Invites = None,
    dashboard: _Dashboard = "",
    monitor: _Monitor = None,
    relay: _Relay = False,
    json: _Json = False,
) -> None:
    """Go on with a run where it was, on any number of peers; they join again as they did."""
    _serve(
        run_dir, "", hosts, owners, stages, planner, host, port, invites, dashboard, monitor, relay, json, resume=True
    )


def _serve(
    run_dir: Path,
    standby: str,
    hosts: int,
    owners: int,
    stages: int,
    planner: Planning,
    host: str,
    port: int,
    invites: Path | None,
    dashboard_address: str,
    monitor: int | None,
    relay: bool,
    json: bool,
    *,
    resume: bool = False,
) -> None:
    from scheduler.run_dir import RunDir
    from scheduler.standing import credentials

    folder = RunDir(run_dir)
    path = Path(standby)
    text = path.read_text(encoding="utf-8") if standby and len(standby) < _LONGEST_PATH and path.is_file() else standby
    credentials(folder, text)  # a missing run is told at once, not after seconds of loading libraries
    if dashboard_address:
        from scheduler.dashboard.server import check_installed, parse_address

        parse_address(dashboard_address)
        check_installed()

    from scheduler.node import Wishes
    from scheduler.planner.heuristic import certified_plan
    from scheduler.planner.uniform import uniform_plan
    from scheduler.serving import serve

    plan = certified_plan if planner is Planning.best else uniform_plan
    wishes = Wishes(hosts, owners, stages, plan, resume, bool(standby), relay)
    serve(folder, wishes, text, host, port, invites, dashboard_address, monitor, json)


def status(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder.")],
    json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
) -> None:
    """Show how far a run is, who takes part, who waits for whom, and what to look at."""
    from scheduler.dashboard.alerts import alerts
    from scheduler.dashboard.folder import RunFolder
    from scheduler.run_dir import RunDir
    from scheduler.text import status_table
    from swarm.errors import RunError

    folder = RunDir(run_dir)
    reader = RunFolder(folder)
    if not folder.status.exists():
        raise RunError(f"the run in {run_dir} was never started", f"start `swarm scheduler {run_dir}`")
    try:
        found = json_module.loads(folder.status.read_bytes())
    except ValueError:
        raise RunError(f"{folder.status} is damaged", "remove it; the scheduler writes it every second") from None
    view = reader.look()
    told = alerts(view)
    if json:
        typer.echo(json_module.dumps(view.as_json() | {"alerts": [asdict(alert) for alert in told]}))
    else:
        from rich.console import Console

        Console().print(*status_table(found, [alert.text for alert in told]))


def dashboard(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder; its scheduler need not run.")],
    address: Annotated[str, typer.Option(help="[HOST:]PORT to listen on; port 0 takes a free one.")] = "127.0.0.1:8080",
    json: _Json = False,
) -> None:
    """Show a run to browsers and Prometheus; `swarm scheduler --dashboard` does the same beside the scheduler."""
    from scheduler.dashboard.server import parse_address, serve
    from scheduler.run_dir import RunDir
    from scheduler.text import in_words
    from swarm.telemetry import Teller

    teller = Teller(json)
    serve(RunDir(run_dir), *parse_address(address), lambda event: teller.tell(event, in_words(event)))
