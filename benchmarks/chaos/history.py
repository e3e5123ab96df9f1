"""The audit logs of all schedulers of a run, read as they are: without the checks of a log that is taken for sound."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from swarm.errors import CheckpointCorrupt


@dataclass(frozen=True, slots=True, order=True)
class Counted:
    """One microbatch as a log has it."""

    number: int
    lease: int
    attempt: int
    owner: str
    cursor: int
    tokens: int
    loss_sum: float
    route: tuple[str, ...]
    """The host of every stage."""


@dataclass(frozen=True, slots=True)
class Step:
    """One committed step as a log has it."""

    step: int
    term: int
    plan: int
    round: int
    tokens: int
    loss_sum: float
    grad_norm: float
    committed_at_s: float
    work: tuple[Counted, ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """What a member said its weights were; with an empty peer, the digest of a group's averaged gradient."""

    num_steps: int
    stage: int
    peer: str
    digest: str


@dataclass(frozen=True, slots=True)
class Log:
    """One scheduler's log.

    Attributes:
        name: of its scheduler, for people.
    """

    name: str
    steps: tuple[Step, ...]
    digests: tuple[Digest, ...] = ()
    gradients: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanShape:
    """Who was at which stage.

    Attributes:
        stages: peers of every trunk stage.
        owners: peers with data.
    """

    stages: tuple[frozenset[str], ...]
    owners: frozenset[str]


@dataclass(slots=True)
class History:
    """The union of all logs.

    Attributes:
        steps: by number, one version of each.
        versions: all versions of the steps that the logs do not agree on.
    """

    steps: list[Step]
    versions: dict[int, list[Step]] = field(default_factory=dict)
    digests: list[Digest] = field(default_factory=list)
    gradients: list[Digest] = field(default_factory=list)


def read_log(path: Path, name: str) -> Log:
    """Read an audit log; it may be in use.

    Raises:
        CheckpointCorrupt: not an audit log.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return _read(connection, name)
    except sqlite3.DatabaseError as error:
        raise CheckpointCorrupt(f"{path} is not an audit log ({error})", "check the path") from None


def _read(connection: sqlite3.Connection, name: str) -> Log:
    connection.execute("BEGIN")  # one state of the file, though its scheduler may be writing
    hops: dict[tuple[int, int], list[str]] = {}
    for step, number, peer in connection.execute("SELECT step, number, peer FROM hops ORDER BY stage"):
        hops.setdefault((step, number), []).append(peer)
    work: dict[int, list[Counted]] = {}
    query = "SELECT step, number, lease, attempt, owner, cursor, tokens, loss_sum FROM work ORDER BY step, number"
    for step, number, lease, attempt, owner, cursor, tokens, loss_sum in connection.execute(query):
        route = tuple(hops.get((step, number), ()))
        counted = Counted(number, lease, attempt, owner, cursor, tokens, loss_sum, route)
        work.setdefault(step, []).append(counted)
    query = "SELECT step, term, plan, round, tokens, loss_sum, grad_norm, committed_at_s FROM steps ORDER BY step"
    steps = tuple(
        Step(step, term, plan, turn, tokens, loss_sum, grad_norm, at_s, tuple(work.get(step, ())))
        for step, term, plan, turn, tokens, loss_sum, grad_norm, at_s in connection.execute(query)
    )
    query = "SELECT num_steps, stage, peer, digest FROM weights"
    digests = tuple(Digest(*row) for row in connection.execute(query))
    query = "SELECT step + 1, stage, '', digest FROM gradients"
    gradients = tuple(Digest(*row) for row in connection.execute(query))
    return Log(name, steps, digests, gradients)


def read_folders(folders: Iterable[Path]) -> tuple[list[Log], list[Log]]:
    """All logs of the schedulers' run folders.

    Returns:
        The logs that hold, and those that a rewind has put aside: their last steps were computed again.
    """
    kept: list[Log] = []
    aside: list[Log] = []
    for folder in folders:
        for path in sorted(folder.glob("audit*.sqlite")):
            log = read_log(path, f"{folder.name}/{path.name}")
            (kept if path.name == "audit.sqlite" else aside).append(log)
    return kept, aside


def union(logs: Sequence[Log]) -> History:
    """One history of all logs; where they differ, the higher term's version is the one that is looked at."""
    versions: dict[int, list[Step]] = {}
    for log in logs:
        for step in log.steps:
            known = versions.setdefault(step.step, [])
            at = next((index for index, other in enumerate(known) if _same(step, other)), None)
            if at is None:
                known.append(step)
            elif step.committed_at_s < known[at].committed_at_s:  # the leader's own clock; followers copy later
                known[at] = step
    return History(
        steps=[max(found, key=lambda step: step.term) for _, found in sorted(versions.items())],
        versions={number: found for number, found in versions.items() if len(found) > 1},
        digests=[digest for log in logs for digest in log.digests],
        gradients=[digest for log in logs for digest in log.gradients],
    )


def _same(step: Step, other: Step) -> bool:
    """But for the clock; a scheduler that has a step from an owner's record may not know its norm and writes 0."""
    grad_norm = step.grad_norm if step.grad_norm and other.grad_norm else other.grad_norm
    return replace(step, committed_at_s=other.committed_at_s, grad_norm=grad_norm) == other
