"""Cases are found by the name of their module in `benchmarks/cases/`, and declare their own options.

A case module has `Options`, a frozen dataclass on `CaseOptions` whose fields are the command's options; `QUICK`,
the values that `--quick` puts in place of their defaults; and `run(options) -> Result`.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cases
from benchmarks.result import Result
from swarm.errors import ConfigError, UnknownKey


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseOptions:
    """What every case takes."""

    seed: int = 1
    """Of all random numbers."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case, loaded."""

    name: str
    summary: str
    """The first line of the module's docstring."""
    options: type[CaseOptions]
    quick: Mapping[str, Any]
    run: Callable[[Any], Result]


def case_names() -> list[str]:
    """Names of all cases, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(cases.__path__))


def load(name: str) -> Case:
    """Load a case.

    Raises:
        UnknownKey: there is none of that name.
    """
    if name not in case_names():
        raise UnknownKey(f"there is no benchmark {name!r}", f"choose one of {', '.join(case_names())}")
    module = importlib.import_module(f"benchmarks.cases.{name.replace('-', '_')}")
    summary = (module.__doc__ or "").strip().partition("\n")[0]
    return Case(name, summary, module.Options, module.QUICK, module.run)


def parse(case: Case, arguments: Sequence[str], quick: bool) -> CaseOptions:
    """Read a case's options off the command line.

    Args:
        case: whose options they are.
        arguments: `--name value` or `--name=value`; flags are `--name`; dashes stand for underscores.
        quick: start from the quick values instead of the defaults; options given still win.

    Returns:
        An instance of `case.options`.

    Raises:
        UnknownKey: an option the case does not have.
        ConfigError: an option without a value, or with one of another type.
    """
    hints = typing.get_type_hints(case.options)
    known = {field.name: hints[field.name] for field in dataclasses.fields(case.options)}
    values: dict[str, Any] = dict(case.quick) if quick else {}
    rest = list(arguments)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in known:
            listed = ", ".join("--" + each.replace("_", "-") for each in known)
            raise UnknownKey(f"bench {case.name} has no option {flag!r}", f"it knows {listed}")
        if known[name] is bool and not equals:
            values[name] = True
            continue
        if not equals:
            if not rest:
                raise ConfigError(f"{flag} has no value", f"write {flag} VALUE")
            text = rest.pop(0)
        values[name] = _convert(known[name], flag, text)
    return case.options(**values)


def _convert(kind: type, flag: str, text: str) -> Any:
    converters: dict[type, Callable[[str], Any]] = {
        bool: {"true": True, "false": False}.__getitem__,
        int: int,
        float: float,
        str: str,
        Path: Path,
    }
    try:
        return converters[kind](text)
    except (ValueError, KeyError):
        raise ConfigError(f"{flag} is {text!r}", f"give it a value of type {kind.__name__}") from None
