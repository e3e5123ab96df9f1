"""Errors: one number each, told over a process's border, and the page that lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.error_page import errors, page, when
from swarm.errors import ClockOff, RoundBroken, SwarmError, UnknownKey, every_error, retold, status_of

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "ERRORS.md").read_text(encoding="utf-8") == page(every_error()), "run `make errors`"


def test_every_number_belongs_to_one_error() -> None:
    codes = [kind.code for kind in every_error()]
    assert len(set(codes)) == len(codes)
    assert RoundBroken in every_error()


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
def test_every_error_says_when_it_comes_and_what_helps(kind: type[SwarmError]) -> None:
    assert "usually" in vars(kind), "its own, not that of the kind above"
    for text in (when(kind), kind.usually):
        assert text
        assert not text.endswith(".")
        assert "|" not in text, "it is a cell of a table"
    assert status_of(kind.code) == 10 + int(kind.code[1])


def test_what_another_process_told_keeps_its_number() -> None:
    told = retold("S309", "the clock is off", "set it")
    assert type(told) is ClockOff
    assert str(told) == "[S309] the clock is off; set it."
    assert retold("S501", "it broke", "repeat it").remedy == "repeat it", "whatever an error's own arguments are"
    assert type(retold("S999", "new", "update")) is SwarmError


def test_one_number_is_shown_alone(capsys: pytest.CaptureFixture[str]) -> None:
    errors("s309")
    shown = capsys.readouterr().out
    assert "S309" in shown
    assert "S308" not in shown
    with pytest.raises(UnknownKey, match="S998"):
        errors("S998")
