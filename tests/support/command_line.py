"""The console command's verbs, as the sources declare them: an installation may be older."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

import typer

SOURCES = Path(__file__).parents[2]
VERBS = tomllib.loads((SOURCES / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"][
    "swarm.verbs"
]


def verb_of(name: str) -> Any:
    """As the console command makes it; raises KeyError where there is none of that name."""
    module, _, function = VERBS[name].partition(":")
    body = getattr(importlib.import_module(module), function)
    app = typer.Typer(add_completion=False)
    app.command(name, context_settings=getattr(body, "context_settings", None))(body)
    return typer.main.get_command(app)
