"""The commands that need a trained model: `swarm export` and `swarm generate`."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

_Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable line.")]


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a folder of them: the newest is taken.")],
    target: Annotated[Path, typer.Argument(help="The folder to make; absent or empty.")],
    json: _Json = False,
) -> None:
    """Write a checkpoint as a folder that transformers loads."""
    # Imported late: the command line must not wait for torch to say what its options are.
    from swarm.training import export as exporting
    from swarm.training.checkpoint import newest_checkpoint

    source = newest_checkpoint(checkpoint)
    exporting.export(source, target)
    if json:
        typer.echo(json_format.dumps({"checkpoint": str(source), "export_dir": str(target)}))
    else:
        typer.echo(f'Exported {source} to {target}; load it with AutoModelForCausalLM.from_pretrained("{target}").')


def generate(
    path: Annotated[Path, typer.Argument(help="A checkpoint, a folder of them, or an exported folder.")],
    prompt: Annotated[str, typer.Option(help="The text to continue.")] = "\n",
    tokens: Annotated[int, typer.Option(min=0, help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 for the likeliest token every time.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 1,
    json: _Json = False,
) -> None:
    """Continue a text with a trained model."""
    from swarm.training import generate as generating

    text = generating.generate(path, prompt, tokens, temperature, seed)
    typer.echo(json_format.dumps({"text": text}) if json else text)
