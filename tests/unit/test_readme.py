"""Every command that the README shows is one that the command line knows, with options that it takes."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest

from benchmarks import registry
from benchmarks.cases.first_result import PEOPLE
from benchmarks.readme import commands, first_results
from tests.support.command_line import SOURCES, verb_of

README = (SOURCES / "README.md").read_text(encoding="utf-8")
BLOCKS = [line for line in commands(README) if line.startswith("swarm ")]
INLINE = sorted(set(re.findall(r"`(swarm [a-z][^`\n]*)`", README)))


@pytest.mark.parametrize("line", BLOCKS)
def test_a_command_of_a_block_can_be_typed_as_it_is(line: str) -> None:
    name, *words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    context = verb_of(name).make_context(name, words)
    if name == "bench" and context.params["case"] not in ("list", "report"):
        registry.parse(registry.load(context.params["case"]), context.args, context.params["quick"])


@pytest.mark.parametrize("text", INLINE)
def test_a_command_in_a_sentence_has_a_verb_and_options_that_there_are(text: str) -> None:
    name, *words = shlex.split(text)[1:]
    verb = verb_of(name)
    if name == "bench":
        return  # its cases' options are tested where they are in blocks
    known = {flag for parameter in verb.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_an_option_that_there_is_not_would_be_found() -> None:
    with pytest.raises(Exception, match="nonsense"):
        verb_of("join").make_context("join", ["invite.txt", "--nonsense"])


def test_everybody_has_a_way_to_a_first_result() -> None:
    blocks = first_results(README)
    assert blocks.keys() == {"setup", *PEOPLE}
    assert all(blocks.values())
    assert README.count("<!--") == len(blocks), "a marked block was not understood"


def test_the_example_of_a_script_is_python() -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    compile(script, "README.md", "exec")
    (names,) = re.findall(r"from swarm.client import (.*)", script)
    assert all(hasattr(importlib.import_module("swarm.client"), name) for name in names.split(", "))
