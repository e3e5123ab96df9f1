"""The page: the newest result of every case, its picture and its figures. It needs no network to be read."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.plots import PLOTS
from swarm.durable import replacing
from swarm.errors import ConfigError

_FACTS = ("case", "metrics", "environment")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; background: white; } table { border-collapse: collapse; }
td, th { text-align: left; padding: .1rem .8rem .1rem 0; font-variant-numeric: tabular-nums; }
small { color: gray; } @media (prefers-color-scheme: dark) { body { background: #15181d; color: #e4e6ea; } }
"""


def write_report(results: Path, target: Path) -> list[Path]:
    """Read a folder of results and write the page, and each picture as a PNG beside it.

    Returns:
        The files written, the page first.

    Raises:
        ConfigError: no results there, matplotlib is not installed, or the page cannot be written.
    """
    newest = _newest(results)
    pictures = {case: _picture(case, found["metrics"]) for case, found in newest.items() if case in PLOTS}
    sections = [_section(case, found, pictures.get(case)) for case, found in newest.items()]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Benchmarks</title><style>{_STYLE}</style>"
        f"<h1>Benchmarks</h1>{''.join(sections)}</html>\n"
    )
    files = {target: page.encode()}
    files |= {target.with_name(f"{target.stem}-{case}.png"): picture for case, picture in pictures.items()}
    try:
        for path, content in files.items():
            with replacing(path) as file:
                file.write(content)
    except OSError as error:
        raise ConfigError(f"cannot write {target} ({error})", "choose another --out") from None
    return list(files)


def _newest(results: Path) -> dict[str, dict[str, Any]]:
    """By case, those with a picture first."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(results.glob("*.json")):
        try:
            result = json.loads(path.read_bytes())
        except (OSError, ValueError):
            raise ConfigError(f"{path} is not a result", "remove it, or choose another --results") from None
        if not isinstance(result, dict) or not all(fact in result for fact in _FACTS):
            raise ConfigError(f"{path} is not a result", "remove it, or choose another --results")
        before = found.get(result["case"])
        if before is None or before["environment"]["date"] < result["environment"]["date"]:
            found[result["case"]] = result
    if not found:
        raise ConfigError(f"there are no results in {results}", "run `swarm bench CASE --json FOLDER` first")
    return {case: found[case] for case in (*(case for case in PLOTS if case in found), *sorted(found.keys() - PLOTS))}


def _picture(case: str, metrics: Mapping[str, Any]) -> bytes:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("matplotlib is not installed", "pip install 'swarm-pretraining[report]'") from None
    title, draw = PLOTS[case]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    draw(axes, metrics)
    axes.set_title(title)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _section(case: str, result: Mapping[str, Any], picture: bytes | None) -> str:
    environment = result["environment"]
    made = f"commit {environment['commit'][:8]}, {environment['date'][:10]}, {environment['cpu_model']}"
    made += f", {environment['cores']} cores" + (", uncommitted changes" if environment.get("dirty") else "")
    rows = "".join(
        f"<tr><th>{html.escape(name)}<td>{html.escape(_shown(value))}"
        for name, value in result["metrics"].items()
        if isinstance(value, int | float | str) or (isinstance(value, dict) and "median" in value)
    )
    image = ""
    if picture is not None:
        title = html.escape(PLOTS[case][0])
        image = f'<img alt="{title}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
    return f"<h2>{html.escape(case)}</h2>{image}<p><small>{html.escape(made)}</small><table>{rows}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.5g} ({value['min']:.5g} to {value['max']:.5g})"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
