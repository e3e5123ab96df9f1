"""The README's commands, for whoever follows it word for word. Pure.

A block that somebody types on the way to a first result has a comment before it, which readers do not see:
`<!-- first result: NAME -->`. Blocks without a language are commands for a shell.
"""

from __future__ import annotations

import re

_MARKED = re.compile(r"<!-- first result: (?P<name>\w+) -->\n```\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)


def first_results(text: str) -> dict[str, tuple[str, ...]]:
    """Lines of the marked blocks, as they are written, by the block's name."""
    return {found["name"]: _lines(found["lines"]) for found in _MARKED.finditer(text)}


def commands(text: str) -> list[str]:
    """Every line of every block of commands."""
    return [line for found in _BLOCK.finditer(text) if not found["language"] for line in _lines(found["lines"])]


def _lines(block: str) -> tuple[str, ...]:
    return tuple(line for line in block.splitlines() if line.strip())
