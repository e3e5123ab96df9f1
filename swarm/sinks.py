"""Figures of a run for the tools that people have: TensorBoard and Weights & Biases, fed from the run's folder."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from swarm.client import Run, Step
from swarm.config import RunConfig
from swarm.errors import ConfigError, TargetExists


class Sink(Protocol):
    """Takes figures of a step."""

    def put(self, step: int, time_s: float, figures: Mapping[str, float]) -> None:
        """Figures by name, of a step counted from 1; `time_s` is since 1970."""


class TensorBoard:
    """Event files in a folder.

    Args:
        folder: new or empty, so that no step is there twice.

    Raises:
        TargetExists: there is something in it.
        ConfigError: tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise TargetExists(f"{folder} is not empty", "choose a new folder; all steps are written there again")
        self._writer = _imported("tensorboard.summary", "tensorboard").Writer(str(folder))

    def put(self, step: int, time_s: float, figures: Mapping[str, float]) -> None:
        """See `Sink`."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step, wall_time=time_s)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandB:
    """A run of a project at Weights & Biases; `WANDB_MODE=offline` keeps it on this machine.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(self, project: str, config: RunConfig) -> None:
        self._run = _imported("wandb", "wandb").init(
            project=project, name=config.name, config=dataclasses.asdict(config)
        )

    def put(self, step: int, time_s: float, figures: Mapping[str, float]) -> None:
        """See `Sink`."""
        self._run.log({**figures, "time_s": time_s}, step=step)

    def close(self) -> None:
        """Let it be uploaded."""
        self._run.finish()


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{package} is not installed ({error})", f"pip install 'swarm-pretraining[{package}]', or leave it out"
        ) from None


def pour(run: Run, sinks: Iterable[Sink]) -> Iterator[Step]:
    """Give every committed step to all sinks, until the last one; yields each when they have it.

    Raises:
        RunError: the scheduler does not run, and the run is not finished.
    """
    sinks = tuple(sinks)
    before: Step | None = None
    for step in run.follow(timeout_s=float("inf")):
        figures = figures_of(before, step)
        for sink in sinks:
            sink.put(step.number, step.committed_at_s, figures)
        before = step
        yield step


def figures_of(before: Step | None, step: Step) -> dict[str, float]:
    """Of one step. How long the first one of a term took is not known: it waited for its members.

    Args:
        before: the step before it; None for the first.
    """
    figures = {
        "train/loss": step.loss,
        "train/grad_norm": step.grad_norm,
        "swarm/tokens": float(step.tokens),
        "swarm/plan": float(step.plan),
        "swarm/term": float(step.term),
    }
    seconds = 0.0 if before is None or before.term != step.term else step.committed_at_s - before.committed_at_s
    if seconds > 0:
        figures |= {"swarm/step_s": seconds, "swarm/tokens_per_s": step.tokens / seconds}
    return figures


@contextlib.contextmanager
def opened(run: Run, tensorboard: Path | None, project: str) -> Iterator[list[Sink]]:
    """The sinks that were asked for; raises ConfigError where there are none."""
    if tensorboard is None and not project:
        raise ConfigError("no sink was named", "give --tensorboard FOLDER, --wandb PROJECT, or both")
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        if tensorboard is not None:
            sinks.append(stack.enter_context(contextlib.closing(TensorBoard(tensorboard))))
        if project:
            sinks.append(stack.enter_context(contextlib.closing(WandB(project, run.config))))
        yield sinks
