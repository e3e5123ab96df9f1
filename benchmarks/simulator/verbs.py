"""`swarm simulate`: a swarm of virtual peers, in virtual time."""

from __future__ import annotations

import dataclasses
import json as json_format
import time
from pathlib import Path
from typing import Annotated, Any

import typer


def simulate(
    peers: Annotated[
        Path | None, typer.Argument(help="A JSON file of hosts and owners, as for `swarm plan`; or use --family.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="With a file of peers: the run.toml that they train.")] = None,
    family: Annotated[str, typer.Option(help="A synthetic swarm: cloud, university, mixed, home, thin_region.")] = "",
    num_peers: Annotated[int, typer.Option("--peers", min=1, help="Hosts of the family.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 3,
    microbatches: Annotated[int, typer.Option(min=0, help="Microbatches a step; 0 for the swarm's own number.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the family and of churn.")] = 1,
    churn_life_h: Annotated[
        float, typer.Option("--churn-life-h", min=0, help="Mean life of a host in hours; 0 for no churn.")
    ] = 0.0,
    shadow_copies: Annotated[
        float, typer.Option(min=0, max=4, help="Under churn: as `schedule.shadow_copies` of a run; 0 for none.")
    ] = 0.0,
    round_trip_ms: Annotated[float, typer.Option(min=0, help="To the scheduler and back.")] = 50.0,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
) -> None:
    """Plan a swarm and simulate it with the production state machines: throughput, where time went, what was lost."""
    from benchmarks.simulator import scenario as scenarios
    from benchmarks.simulator.run import simulate as run
    from swarm.errors import ConfigError

    if (peers is None) == (not family) or (peers is None) != (model is None):
        raise ConfigError("name either a file of peers and a --model, or a --family", "see swarm simulate --help")
    if peers is not None and model is not None:
        instance = scenarios.of_file(peers, model)
    else:
        instance = scenarios.of_family(family, num_peers, seed)
    if microbatches:
        instance = dataclasses.replace(instance, work=dataclasses.replace(instance.work, global_batch=microbatches))
    planned = scenarios.planned(instance, steps, round_trip_ms / 1e3)
    followed = None
    if churn_life_h:
        planned = scenarios.churned(planned, churn_life_h * 3600, seed)
        followed = planned.followed(shadow_copies)
    began_s = time.perf_counter()
    report = run(planned.config, followed)
    figures: dict[str, Any] = {
        "tokens_per_s": report.tokens_per_s,
        "predicted_tokens_per_s": planned.predicted.tokens_per_s,
        "stages": len(planned.config.plan.stages),
        **dataclasses.asdict(report),
        "lost_peers": len(report.lost_peers),
        "wall_s": time.perf_counter() - began_s,
    }
    for name, value in figures.items():
        typer.echo(f"{name:24} {_shown(value)}")
    if json is not None:
        json.write_text(json_format.dumps(figures, indent=2) + "\n", encoding="utf-8")
        typer.echo(f"Written to {json}.")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {share:.3f}" for name, share in value.items())
    if isinstance(value, list):
        return " ".join(_shown(each) for each in value[:10]) + (" ..." if len(value) > 10 else "")
    return str(value)
