"""Writing TOML: the standard library only reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def to_toml(values: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Values and one level of sections as TOML.

    Args:
        values: strings, numbers, booleans, lists; mappings become sections.
        comments: by section name; `""` for the top of the file.
    """
    lines = [f"# {comments['']}", ""] if "" in comments else []
    lines += [f"{key} = {_value(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    for section, table in values.items():
        if isinstance(table, Mapping):
            lines += ["", f"# {comments[section]}"] if section in comments else [""]
            lines += [f"[{section}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_value(entry)}" for key, entry in value.items()) + "}"
    return repr(value)
