"""For researchers who script: read a run, start one on this machine, watch one elsewhere.

```python
from swarm.client import LocalRun

with LocalRun(Path("try"), values, shards=[Path("text/")], hosts=2) as local:
    for step in local.run.follow():
        print(step.number, step.loss)
    print(local.run.plan, local.checkpoint)
```

`Run` reads the folder of a run, also of one that is over, and never disturbs it. `watched` needs an invite only.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from swarm.config import RunConfig
from swarm.errors import ConfigError, DeadlineExceeded, RunError
from swarm.local.fleet import Fleet
from swarm.run_files import StepRow, Tail, WorkRow, opened_ledger, steps_of, work_of

_LOOK_S = 0.2
_STEPS_A_READ = 1000
_SILENT_S = 30.0
"""The scheduler rewrites its status every second; one that has not for so long, on a busy machine, does not run."""
_STEP_S = 600.0


@dataclass(frozen=True, slots=True)
class Step:
    """A committed step.

    Attributes:
        number: counted from 1.
        loss: a token, before the step was applied.
        grad_norm: of the whole model's gradient, before clipping.
        committed_at_s: since 1970.
    """

    number: int
    loss: float
    tokens: int
    grad_norm: float
    plan: int
    term: int
    committed_at_s: float


class Run:
    """A run as its scheduler's folder tells it.

    Args:
        folder: has a run.toml.

    Raises:
        ConfigError: it has none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "run.toml").exists():
            raise ConfigError(f"there is no run in {folder}", "give the folder that `swarm init` made")
        self.config = RunConfig.from_toml(folder / "run.toml")

    @property
    def status(self) -> dict[str, Any]:
        """As the scheduler wrote it last, within a second of now while it runs; empty before it ran.

        Keys: `phase`, `waiting_for`, `last_step`, `plan`, `peers` (by peer id), `checkpoint`, `written_at_s`, …
        """
        try:
            found = json.loads((self.folder / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def plan(self) -> dict[str, Any] | None:
        """The plan that holds (`number`, `stages`, `owners`, `predicted_tokens_per_s`); None before the first."""
        return self.status.get("plan")

    @property
    def is_finished(self) -> bool:
        """Whether the last step is committed."""
        steps = self.config.schedule.steps
        return bool(self._rows(steps - 1, 1))

    def steps(self, first: int = 1) -> list[Step]:
        """Committed steps from `first` (counted from 1) on."""
        found: list[Step] = []
        while rows := self._rows(first - 1 + len(found), _STEPS_A_READ):
            found += map(_step, rows)
        return found

    def work(self, step: int) -> list[WorkRow]:
        """What the ledger has of a step (counted from 1): every microbatch, its owner and its route."""
        with contextlib.suppress(sqlite3.Error), opened_ledger(self.folder / "audit.sqlite") as connection:
            return work_of(connection, step - 1)
        return []

    def events(self) -> list[dict[str, Any]]:
        """All that the scheduler told and its folder still has, the oldest first; each has `event` and `time_s`."""
        return list(Tail(self.folder / "events.jsonl").read())

    def follow(self, first: int = 1, timeout_s: float = _STEP_S) -> Iterator[Step]:
        """Steps as they are committed, from `first` on, until the last one. One that is computed again comes once.

        Args:
            timeout_s: without a step.

        Raises:
            RunError: the scheduler does not run, and the run is not finished.
            DeadlineExceeded: no step within `timeout_s`.
        """
        next_step, last = first, self.config.schedule.steps
        began_s = heard_s = time.time()
        while next_step <= last:
            rows = self._rows(next_step - 1, _STEPS_A_READ)
            for row in rows:
                yield _step(row)
            next_step += len(rows)
            now_s = time.time()
            if rows:
                heard_s = now_s
                continue
            if now_s - max(began_s, float(self.status.get("written_at_s", 0.0))) > _SILENT_S:
                raise RunError(f"the scheduler of {self.folder} does not run", f"start `swarm resume {self.folder}`")
            if now_s - heard_s > timeout_s:
                raise DeadlineExceeded(
                    f"step {next_step} was not committed within {timeout_s:.0f} s ({self.status.get('phase')})",
                    "look at `swarm status`",
                )
            time.sleep(_LOOK_S)

    def _rows(self, first: int, most: int) -> list[StepRow]:
        with contextlib.suppress(sqlite3.Error), opened_ledger(self.folder / "audit.sqlite") as connection:
            return steps_of(connection, first, most)
        return []


def _step(row: StepRow) -> Step:
    loss = row.loss_sum / row.tokens
    return Step(row.step + 1, loss, row.tokens, row.grad_norm, row.plan, row.term, row.committed_at_s)


@dataclass(slots=True)
class LocalRun:
    """A whole swarm on this machine, of real processes. Use it as a context manager: leaving it stops them all.

    Args:
        folder: new; holds the run (in `run/`), every peer's state, and logs.
        config: the path of a run.toml, or its values.
        shards: a private text an owner.
        hosts: how many.
        stages: of the trunk; 0 leaves it to the planner.
        options: by program (`scheduler`, `owner-0`, `host-1`, …), added to its command.

    Attributes:
        fleet: the processes, for experiments that kill some or let others join.
    """

    folder: Path
    config: Path | Mapping[str, Any]
    shards: Sequence[Path]
    hosts: int
    stages: int = 0
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fleet: Fleet = field(init=False)

    def __post_init__(self) -> None:
        values = self.config
        if isinstance(values, Path):
            try:
                values = tomllib.loads(values.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ConfigError(f"cannot read {self.config} ({error})", "give the path of a run.toml") from None
        self.fleet = Fleet(self.folder, values, self.shards, self.hosts, self.stages, options=self.options)

    def __enter__(self) -> Self:
        """Start them; raises SwarmError with the number of what is wrong."""
        self.fleet.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.fleet.__exit__(*exception)

    @property
    def run(self) -> Run:
        """What is known of it."""
        return Run(self.fleet.run_dir)

    @property
    def checkpoint(self) -> Path:
        """The newest; raises RunError where there is none yet."""
        newest = str(self.run.status.get("checkpoint", ""))
        if not newest:
            raise RunError("there is no checkpoint yet", "wait for a step that keeps one, or for the end")
        return Path(newest)

    def wait_finished(self, timeout_s: float = _STEP_S) -> Path:
        """Until the last step is applied and collected; the last checkpoint's folder."""
        return self.fleet.wait_finished(timeout_s)

    def stop(self) -> None:
        """End all processes now, as leaving the context does."""
        self.fleet.__exit__()


def watched(invite: str) -> Iterator[dict[str, Any]]:
    """A run anywhere, by its signed announcements: what `swarm watch --json` prints, until the run is finished.

    Close the iterator to stop earlier. Each has `event`: `metrics`, `plan`, or `waiting` while nothing can be heard.

    Args:
        invite: or the path of the file that holds it.

    Raises:
        RunError: the invite is refused; with the sentence that says why.
    """
    command = [sys.executable, "-m", "swarm", "watch", invite, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            for line in process.stdout:
                yield json.loads(line)
            if process.wait():
                raise RunError(f"watching ended: {process.stderr.read().strip()[-500:]}", "see the sentence before")
        finally:
            process.terminate()
