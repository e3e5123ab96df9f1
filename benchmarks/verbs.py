"""`swarm bench CASE`: run a benchmark, show its figures, keep its result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def bench(
    context: typer.Context,
    case: Annotated[str, typer.Argument(help="Which benchmark; `list` shows all, `report` makes a page of results.")],
    quick: Annotated[
        bool, typer.Option(help="A small run that shows it works; its figures are not for quoting.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file, or into this folder.")] = None,
    results: Annotated[Path, typer.Option(help="report: the folder of results.")] = Path("benchmarks/results"),
    out: Annotated[Path, typer.Option(help="report: the page to write; pictures lie beside it.")] = Path("report.html"),
) -> None:
    """Measure something; each case has options of its own, such as --rounds 1000."""
    # Imported late: the command line must not wait for torch to say what its options are.
    from benchmarks import registry
    from swarm.errors import UnknownKey

    if case in ("list", "report") and context.args:
        raise UnknownKey(f"bench {case} has no option {context.args[0]!r}", "see `swarm bench --help`")
    if case == "list":
        for name in registry.case_names():
            typer.echo(f"{name:16} {registry.load(name).summary}")
        return
    if case == "report":
        from benchmarks.report.page import write_report

        for path in write_report(results, out):
            typer.echo(f"Written: {path}")
        return
    loaded = registry.load(case)
    result = loaded.run(registry.parse(loaded, context.args, quick))
    for name, value in result.metrics.items():
        typer.echo(f"{name:32} {_shown(value)}")
    if json is not None:
        typer.echo(f"Written to {result.write(json)}.")


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# The cases' own options pass through to them; whoever makes this a command gives it these settings.
bench.context_settings = {"allow_extra_args": True, "ignore_unknown_options": True}  # type: ignore[attr-defined]
