"""`swarm scheduler` and `swarm resume` as a process: invites on the disk, events for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import uvloop

from scheduler.companion import Companion
from scheduler.dashboard.door import is_local
from scheduler.event_log import EventLog
from scheduler.node import Node, Wishes
from scheduler.opening import opened
from scheduler.run_dir import RunDir, make_invite
from scheduler.text import in_words
from swarm.admission import ROLES
from swarm.durable import keeping
from swarm.signals import until_stopped
from swarm.telemetry import Teller

_LIFETIME_S = 7 * 86_400.0
_USES = 100
_PASSING = ("step", "progress")
"""Events that replace one another on a terminal."""
_SLOW_STEP_S = 3.0
"""A step that takes longer is told who it waits for."""


def serve(
    folder: RunDir,
    wishes: Wishes,
    invite: str,
    host: str,
    port: int,
    invites: Path | None,
    dashboard: str,
    monitor: int | None,
    json: bool,
) -> None:
    """Run a scheduler until the run is finished, or somebody stops it.

    Args:
        invite: of a standby; empty for a run's first scheduler.
        host, port: to listen on.
        invites: the folder for invites; None for the run's.
        dashboard: the address of the dashboard's server; none where it is empty.
        monitor: the port of announcements for `swarm watch`; None: any, and none where only this machine could hear.
        json: tell events as JSON lines.

    Raises:
        SwarmError: with the number of what is wrong.
    """
    teller = Teller(json)
    events = EventLog(folder.events)

    def tell(event: dict[str, Any]) -> None:
        events.append(event)
        if json or event["event"] not in _PASSING:
            teller.tell(event, in_words(event))
        elif event["event"] == "step" or event["since_s"] > _SLOW_STEP_S:
            teller.say(in_words(event))

    async def main() -> None:
        async with opened(folder, host, port, wishes, invite, tell) as node:
            addresses = node.office.addresses
            with keeping(folder.address) as file:
                file.write("\n".join(addresses).encode())
            paths = _write_invites(node, invites or folder.invites)
            tell({"event": "listening", "addresses": list(addresses), "invites": paths})

            def tell_monitor(event: dict[str, Any]) -> None:
                node.signpost.sealed = bytes.fromhex(event.pop("sealed", "")) or node.signpost.sealed
                tell(event)

            pages = ("-m", "scheduler.dashboard", str(folder.root), dashboard) if dashboard else ()
            gossip = () if monitor is None and is_local(host) else (str(folder.root), host, str(monitor or 0))
            async with (
                Companion("dashboard", pages, tell),
                Companion("monitor", ("-m", "scheduler.monitor", *gossip) if gossip else (), tell_monitor),
            ):
                await node.run()
            tell({"event": "finished", "checkpoint": node.office.status.checkpoint})

    try:
        uvloop.run(until_stopped(main()))
    finally:
        teller.close()
        events.close()


def _write_invites(node: Node, folder: Path) -> dict[str, str]:
    """One invite a role; none from a standby without the admin's key. Returns their paths."""
    admin = node.reception.admin
    if admin is None:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for role in ROLES:
        path = folder / f"{role}.txt"
        with keeping(path) as file:
            text = make_invite(node.office.config, admin, node.office.addresses, (role,), _USES, _LIFETIME_S)
            file.write(text.encode())
        path.chmod(0o600)  # whoever can read an invite can join
        paths[role] = str(path)
    return paths
