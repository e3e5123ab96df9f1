"""`swarm sink`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sink(
    run_dir: Annotated[Path, typer.Argument(help="The run's folder; it is only read.")],
    tensorboard: Annotated[Path | None, typer.Option(help="Write event files into this new folder.")] = None,
    wandb: Annotated[str, typer.Option(help="Log to this project at Weights & Biases.")] = "",
) -> None:
    """Give a run's figures to TensorBoard or Weights & Biases, from its first step until its last."""
    from swarm.client import Run
    from swarm.sinks import opened, pour
    from swarm.telemetry import Teller

    run = Run(run_dir)
    teller = Teller(as_json=False)
    try:
        with opened(run, tensorboard, wandb) as sinks:
            for step in pour(run, sinks):
                teller.say(f"step {step.number} of {run.config.schedule.steps}  loss {step.loss:.4f}")
    finally:
        teller.close()
