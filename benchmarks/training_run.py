"""A fleet's finished run, and the reference's replay of its audit log."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from scheduler.audit_reading import CommittedStep, read_lost_peers, read_steps, read_weight_digests
from scheduler.run_dir import RunDir
from swarm.config import RunConfig
from swarm.data.shards import Shard
from swarm.data.tokenizer import load_tokenizer
from swarm.errors import RunError
from swarm.local.fleet import Event, Fleet
from swarm.training.checkpoint import newest_checkpoint
from swarm.training.reference import LedgerItem, LedgerStep, Reference, ReplayedStep, replay

_PEER_GONE_S = 60.0


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a run left on the disk, and how long its steps took."""

    folder: Path
    config: RunConfig
    shards: dict[str, Path]
    """By the owner's peer id."""
    wall_s: float
    """From the first lease to the last commit, without starting processes."""
    scheduler: str = "run"
    """Name of the folder of the scheduler that led last."""

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint's folder."""
        return newest_checkpoint(RunDir(self.folder / self.scheduler).checkpoints)

    @property
    def steps(self) -> list[CommittedStep]:
        """The ledger."""
        return list(read_steps(self._audit))

    @property
    def lost_peers(self) -> list[tuple[str, int, str]]:
        """(peer, step, problem) of every peer that was lost before the run was over."""
        return read_lost_peers(self._audit)

    def replicas_equal(self) -> bool:
        """After every step, did all members of every group hold the same weights, none missing that worked in it?

        Whoever was told of a commit by a leader that died at once may not have said so to anybody.
        """
        digests = read_weight_digests(self._audit)
        lost = {peer for peer, _, _ in self.lost_peers}
        steps = self.steps
        terms = [step.term for step in steps[1:]] + [steps[-1].term]
        for step, next_term in zip(steps, terms, strict=True):
            routes = [(*work.route, work.owner) for work in step.work]
            for group, workers in enumerate(zip(*routes, strict=True)):
                found = digests.get((step.step + 1, group), {})
                if len(set(found.values())) > 1:
                    return False
                if step.term == next_term and not set(workers) - lost <= found.keys():
                    return False
        return True

    def replay(self, threads: int, on_step: Callable[[ReplayedStep], None] | None = None) -> tuple[Reference, float]:
        """Compute the whole ledger in this process.

        Returns:
            The reference, and the seconds of its steps, without building the model.
        """
        shards = {peer: self._open(path) for peer, path in self.shards.items()}
        seeds = {peer: shard.sampling_seed(self.config.seed) for peer, shard in shards.items()}
        started_s: list[float] = []

        def ledger() -> Iterator[LedgerStep]:
            steps = self.steps
            started_s.append(time.monotonic())
            for step in steps:
                items = [
                    LedgerItem(shards[work.owner].train_tokens, seeds[work.owner], work.cursor) for work in step.work
                ]
                yield LedgerStep(step.plan, items)

        reference = replay(self.config, ledger(), threads, on_step)
        return reference, time.monotonic() - started_s[0]

    def _open(self, path: Path) -> Shard:
        return Shard.open(self.config, path, self.folder / "reference", load_tokenizer(self.config, None))

    @property
    def _audit(self) -> Path:
        return RunDir(self.folder / self.scheduler).audit


def train(
    fleet: Fleet, label: str, timeout_s: float, on_step: Callable[[Fleet, Event], None] | None = None
) -> FinishedRun:
    """Start a fleet, watch it to the end of its run, and stop it.

    Args:
        fleet: not started yet; its owners tokenise bytes.
        label: shown to people.
        timeout_s: for the whole run.
        on_step: called with every `step` event of the scheduler, while the next step is being computed.

    Raises:
        RunError: a process ended too early.
        DeadlineExceeded: the run takes too long.
    """
    num_steps = fleet.run["schedule"]["steps"]
    last: Event = {}
    with Progress(transient=True) as progress:
        task = progress.add_task(f"{label}: starting processes", total=num_steps)

        def watch(event: Event) -> bool:
            if event.get("event") == "step":
                last.update(event)
                shown = f"{label}: loss {event['loss']:.3f}"
                progress.update(task, completed=event["step"], description=shown)
                if on_step is not None:
                    on_step(fleet, event)
            return event.get("event") == "finished"

        with fleet:
            fleet.scheduler.wait_until(watch, "'finished'", timeout_s)
            shards = {fleet.peer_id(f"owner-{index}"): path for index, path in enumerate(fleet.corpora)}
            _wait_for_the_end(fleet)
    return FinishedRun(fleet.folder, RunDir(fleet.run_dir).load_config(), shards, float(last["elapsed_s"]))


def _wait_for_the_end(fleet: Fleet) -> None:
    """Everybody goes home by itself; the scheduler then closes its log."""
    deadline_s = time.monotonic() + _PEER_GONE_S
    while any(program.process.poll() is None for program in fleet.programs.values()):
        if time.monotonic() > deadline_s:
            raise RunError("a process does not end after the run is over", f"see {fleet.folder / 'logs'}")
        time.sleep(0.1)


def busiest_host(fleet: Fleet) -> str:
    """Name of the host that computed most so far: on a busy machine another one may have got nothing to do."""
    names = {fleet.peer_id(name): name for name in fleet.programs if name.startswith("host-")}
    steps = read_steps(RunDir(fleet.run_dir).audit)
    return names[statistics.mode(peer for step in steps for work in step.work for peer in work.route)]


def largest_relative(pairs: Sequence[tuple[float, float]]) -> float:
    """The largest |a - b| / |b|."""
    return max(abs(a - b) / abs(b) for a, b in pairs)
