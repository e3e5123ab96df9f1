"""Who was admitted to a run, as its folder tells; and sending one of them away."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.table import Table

from scheduler.dashboard.folder import RunFolder
from scheduler.dashboard.words import clock
from scheduler.run_dir import RunDir
from swarm.admission import Revoked, seal, unseal
from swarm.durable import keeping
from swarm.errors import ConfigError, ProtocolError
from swarm.run_files import opened_ledger
from swarm.words import duration, short


@dataclass(frozen=True, slots=True)
class Member:
    """One of them.

    Attributes:
        roles: that it announced; none where it was not here since the scheduler started.
        condition: what it does; `revoked` where the admin sent it away.
        admitted_at_s: since 1970; 0 where another scheduler admitted it.
        last_step: that it had a part in, counted from 1; 0 for none.
        last_worked_at_s: when that step was committed, since 1970; 0 for none.
        hosted, owned: microbatches of committed steps.
    """

    peer: str
    roles: tuple[str, ...]
    condition: str
    admitted_at_s: float
    last_step: int
    last_worked_at_s: float
    hosted: int
    owned: int


def everybody(run_dir: RunDir) -> tuple[Member, ...]:
    """By the time they were admitted; raises ConfigError where there is no run."""
    view = RunFolder(run_dir).look()
    admitted = _admitted(run_dir)
    revoked = set(_revoked(run_dir))
    known = {peer.peer: peer for peer in view.peers}
    committed = _committed(run_dir, {peer.done.last_step for peer in view.peers})
    found = []
    for peer in {**admitted, **known, **dict.fromkeys(sorted(revoked))}:
        each = known.get(peer)
        found.append(
            Member(
                peer=peer,
                roles=each.roles if each else (),
                condition="revoked" if peer in revoked else each.condition if each else "unknown",
                admitted_at_s=admitted.get(peer, 0.0),
                last_step=each.done.last_step if each else 0,
                last_worked_at_s=committed.get(each.done.last_step, 0.0) if each else 0.0,
                hosted=each.done.hosted if each else 0,
                owned=each.done.owned if each else 0,
            )
        )
    return tuple(found)


def send_away(run_dir: RunDir, name: str) -> str:
    """Add a member to the list in the run's folder, which its scheduler looks at every second.

    Args:
        name: a peer id, or the end of one.

    Returns:
        The peer id.

    Raises:
        ConfigError: nobody has that name, or several have; no admin's key here.
    """
    config = run_dir.load_config()
    admin = run_dir.load_admin(config)
    fitting = [member.peer for member in everybody(run_dir) if name and member.peer.endswith(name)]
    if len(fitting) != 1:
        how_many = f"{len(fitting)} members have" if fitting else "no member has"
        raise ConfigError(f"{how_many} a peer id that ends in {name!r}", "take it from `swarm members`")
    peers = dict.fromkeys((*_revoked(run_dir), *fitting))
    with keeping(run_dir.revoked) as file:
        file.write(seal(admin, Revoked(fingerprint=config.fingerprint, peers=tuple(peers))))
    return fitting[0]


def _revoked(run_dir: RunDir) -> tuple[str, ...]:
    try:
        return unseal(run_dir.revoked.read_bytes(), Revoked)[0].peers if run_dir.revoked.exists() else ()
    except ProtocolError:
        raise ConfigError(
            f"{run_dir.revoked} is damaged", "restore it from a backup, or from a member's folder"
        ) from None


def _admitted(run_dir: RunDir) -> dict[str, float]:
    query = "SELECT peer, MIN(admitted_at_s) FROM admissions GROUP BY peer ORDER BY 2"
    with contextlib.suppress(sqlite3.Error), opened_ledger(run_dir.audit) as connection:
        return dict(connection.execute(query).fetchall())
    return {}


def _committed(run_dir: RunDir, steps: Collection[int]) -> dict[int, float]:
    """When steps were, counted from 1."""
    query = "SELECT committed_at_s FROM steps WHERE step = ?"
    found = {}
    with contextlib.suppress(sqlite3.Error), opened_ledger(run_dir.audit) as connection:
        for step in steps:
            for (committed_at_s,) in connection.execute(query, (step - 1,)):
                found[step] = committed_at_s
    return found


def table(members: Sequence[Member]) -> Table:
    """For people."""
    found = Table("peer", "roles", "state", "admitted", "last step", "hosted", "from its shard")
    for each in members:
        found.add_row(
            short(each.peer),
            " and ".join(each.roles) or "?",
            each.condition,
            clock(each.admitted_at_s),
            f"{each.last_step:,}, {_ago(each.last_worked_at_s)}" if each.last_step else "none",
            f"{each.hosted:,}",
            f"{each.owned:,}",
        )
    return found


def _ago(time_s: float) -> str:
    return f"{duration(max(0.0, time.time() - time_s))} ago"
