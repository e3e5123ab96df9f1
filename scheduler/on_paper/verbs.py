"""`swarm plan`: what peers would do together, before any of them is asked."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer


def plan(
    peers: Annotated[Path, typer.Argument(help="A JSON file of hosts, owners and regions; the README has one.")],
    model: Annotated[Path, typer.Option(help="The run.toml whose model they would train.")],
    stages: Annotated[int, typer.Option(min=0, help="Cut the trunk into so many stages; 0: the planner decides.")] = 0,
    add: Annotated[
        list[str] | None,
        typer.Option(
            help="What one more would bring: a kind of peer in the file, or a JSON object; default: each kind."
        ),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the pipeline into this .svg file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON object.")] = False,
) -> None:
    """Plan on paper: who would host what, how fast it would be, where the time would go, who would not help."""
    from swarm.errors import ConfigError

    if picture is not None and picture.suffix.lower() != ".svg":
        raise ConfigError(f"the picture is {picture.name!r}", "give it a name that ends in .svg")

    from scheduler.on_paper.growth import one_more
    from scheduler.on_paper.peers_file import kind_of, on_paper, read_model, read_peers
    from scheduler.on_paper.picture import draw
    from scheduler.on_paper.report import make_report
    from scheduler.on_paper.words import in_words
    from scheduler.planner.explain import explain
    from scheduler.planner.heuristic import certified_plan

    found = read_peers(peers)
    kinds = [kind_of(text, found) for text in add] if add else found.kinds
    run = read_model(model)
    paper = on_paper(found, run, stages)
    best = certified_plan(paper.instance)
    gains = [one_more(found, run, paper, best, kind) for kind in kinds]
    report = make_report(paper, found.region_names, best, explain(paper.instance, best), gains)
    if picture is not None:
        _write(picture, draw(report))
    if json:
        typer.echo(json_module.dumps(report.to_dict()))
        return

    from rich.console import Console

    Console(highlight=False).print(*in_words(report), sep="\n\n")
    if picture is not None:
        typer.echo(f"The picture is in {picture}.")


def _write(picture: Path, text: str) -> None:
    from swarm.durable import replacing
    from swarm.errors import ConfigError

    try:
        with replacing(picture) as file:
            file.write(text.encode())
    except OSError as error:
        raise ConfigError(f"cannot write {picture} ({error.strerror})", "choose another place") from None
