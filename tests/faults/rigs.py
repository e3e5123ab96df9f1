"""A small fleet under faults that a test chooses, and the check of what its ledgers say afterwards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.checker import Findings, check
from benchmarks.chaos.faults import Lines
from benchmarks.chaos.history import History, read_folders, union
from benchmarks.chaos.replaying import compare, newest_of
from benchmarks.chaos.rig import LEADER, Rig, Role
from benchmarks.corpora import write_random_shards
from benchmarks.wan.namespaces import Line, shaped
from scheduler.run_dir import RunDir
from swarm.local.fleet import Event, Fleet
from tests.support.swarms import run_values

START_S = 150.0
CHECKPOINT_EVERY = 5
BATCH = 6


@dataclass(slots=True)
class Trial:
    """A running fleet that a test does harm to.

    Attributes:
        campaign: brings back what was struck.
    """

    campaign: Campaign
    folder: Path

    @property
    def rig(self) -> Rig:
        """Its programs."""
        return self.campaign.rig

    def until(self, what: str, is_done: Callable[[], bool], timeout_s: float) -> None:
        """Wait, and bring back who is due meanwhile."""

        def tended() -> bool:
            self.campaign.tend()
            return is_done()

        assert self.rig.wait(what, tended, timeout_s), f"{what} did not come within {timeout_s:.0f} s"

    def more_steps(self, count: int, timeout_s: float) -> None:
        """Until so many more steps are committed."""
        goal = self.rig.newest_step + count
        self.until(f"step {goal}", lambda: self.rig.newest_step >= goal, timeout_s)

    def told(self, name: str, kind: str) -> list[Event]:
        """Events of a kind from all processes that a program had."""
        return [
            event
            for other, program in self.rig.ever
            if other == name
            for event in tuple(program.events)
            if event.get("event") == kind
        ]

    def end_well(self, timeout_s: float = 120.0) -> None:
        """Until everybody is there, and a checkpoint was written after all of that."""
        self.until("everybody is back", lambda: not self.campaign.absent, timeout_s)
        goal = self.rig.newest_step + 1
        self.until("a later checkpoint", lambda: self.rig.newest_checkpoint >= goal, timeout_s)

    def history(self) -> History:
        """Of all schedulers."""
        return union(read_folders([self.rig.folder_of(name) for name in self.rig.names(Role.SCHEDULER)])[0])


@contextlib.contextmanager
def trial(
    folder: Path,
    *,
    hosts: int,
    stages: int,
    owners: int = 1,
    standbys: int = 0,
    line: Line | None = None,
    **changed: Any,
) -> Iterator[Trial]:
    """Start a fleet; after the test, stop it and check every promise.

    Args:
        hosts: all that there are, spares included.
        line: put everybody into a network namespace behind such a line, so that it can be cut; needs root.
        changed: sections of the run's configuration.
    """
    values = run_values("fp32")
    # Gentle: hundreds of steps at a large rate would blow rounding up until it looks like a wrong step.
    values["optimizer"] = {"name": "sgd", "learning_rate": 0.01, "warmup_steps": 2}
    values["schedule"] = {"steps": 1_000_000, "checkpoint_every_steps": CHECKPOINT_EVERY}
    values |= changed
    shards = write_random_shards(folder / "text", 1, owners, 40_000)
    names = [LEADER, *(f"standby-{number}" for number in range(standbys))]
    names += [f"owner-{number}" for number in range(owners)] + [f"host-{number}" for number in range(hosts)]
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(shaped(dict.fromkeys(names, line))) if line else {}
        options = {name: ("--host", place.address) for name, place in places.items()}
        wrappers = {name: place.wrapper for name, place in places.items()}
        fleet = Fleet(folder / "fleet", values, shards, hosts, stages, options=options, wrappers=wrappers)
        stack.enter_context(fleet)
        rig = Rig(fleet, standbys)
        spaces = Lines(places)
        running = Trial(Campaign(rig, spaces, most_away=len(names)), folder)
        stack.callback(running.campaign.release)
        rig.open()
        running.until("the first steps", lambda: rig.newest_step >= 3, START_S)
        running.until("everybody", lambda: not running.campaign.absent, START_S)
        yield running
        running.end_well()
    check_all(running)


def is_at_work(running: Trial, name: str, after_step: int) -> bool:
    """Whether a peer took part in a step committed since then."""
    peer = running.rig.peer_id(name)
    late = [step for step in running.history().steps if step.step > after_step]
    return any(peer == work.owner or peer in work.route for step in late for work in step.work)


def check_all(done: Trial) -> None:
    """Nobody ended by itself; nothing was lost, counted twice, or different; the weights are the reference's."""
    rig = done.rig
    assert done.campaign.exits == []
    assert done.campaign.daemons.orphans == []
    history = done.history()
    found = check(history, BATCH, rig.plans, rig.steps_told)
    assert found.broken == [], json.dumps(found.examples, indent=1)
    assert found.digests_compared > 0 or found == Findings()
    checkpoints = [RunDir(rig.folder_of(name)).checkpoints for name in rig.names(Role.SCHEDULER)]
    shards = {rig.peer_id(f"owner-{number}"): path for number, path in enumerate(rig.fleet.corpora)}
    config = RunDir(rig.fleet.run_dir).load_config()
    compared = compare(newest_of(checkpoints), history.steps, config, shards, done.folder / "reference")
    assert compared.max_weight_rel_diff <= 1e-5


def names_of(running: Trial, peers: frozenset[str]) -> list[str]:
    """Programs, by their ids."""
    programs = [name for name in running.rig.fleet.programs if name.startswith(("host", "owner"))]
    return sorted(name for name in programs if running.rig.peer_id(name) in peers)


def newest_stages(running: Trial) -> list[list[str]]:
    """Programs by stage, in the newest plan that was told."""
    return [names_of(running, stage) for stage in max(running.rig.plans.items())[1][-1].stages]
