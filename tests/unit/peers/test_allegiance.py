"""One leader a term, never an earlier term again, and no other one while the leader lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.allegiance import Allegiance, Answer
from peers.oath import Oath
from swarm.errors import ConfigError


@pytest.mark.parametrize(
    ("obeys", "candidate", "term", "leader_lives", "answer"),
    [
        ((0, ""), "a", 1, None, Answer.GRANT),
        ((3, "a"), "a", 3, None, Answer.GRANT),
        ((3, "a"), "a", 4, None, Answer.GRANT),
        ((3, "a"), "a", 2, None, Answer.DENY),
        ((3, "a"), "b", 3, None, Answer.DENY),
        ((3, "a"), "b", 2, None, Answer.DENY),
        ((3, "a"), "b", 4, None, Answer.ASK),
        ((3, "a"), "b", 4, True, Answer.DENY),
        ((3, "a"), "b", 4, False, Answer.GRANT),
    ],
)
def test_a_claim(obeys: tuple[int, str], candidate: str, term: int, leader_lives: bool | None, answer: Answer) -> None:
    found = Allegiance(*obeys).answer(candidate, term, knows_plan=True, leader_lives=leader_lives)
    assert found is answer


def test_who_knows_an_older_plan_gets_nothing() -> None:
    assert Allegiance(3, "a").answer("a", 4, knows_plan=False) is Answer.DENY
    assert Allegiance().answer("a", 4, knows_plan=False) is Answer.DENY


def test_only_the_leader_of_the_term_is_heeded() -> None:
    allegiance = Allegiance()
    assert allegiance.grant("a", 3)
    assert not allegiance.grant("a", 3), "said twice"
    assert allegiance.heeds("a", 3)
    assert not allegiance.heeds("a", 2)
    assert not allegiance.heeds("b", 3)
    assert allegiance.grant("b", 4)
    assert not allegiance.heeds("a", 3)


def test_a_restart_does_not_forget_a_grant(tmp_path: Path) -> None:
    oath = Oath(tmp_path / "run" / "leader.json")
    assert oath.allegiance == Allegiance()
    oath.allegiance.grant("a", 7)
    oath.save()
    assert Oath(tmp_path / "run" / "leader.json").allegiance == Allegiance(7, "a")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"term": -1, "leader": "a"}', b'{"term": "1", "leader": "a"}', b"\xff"]
)
def test_a_damaged_oath_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "leader.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"leader\.json is damaged"):
        Oath(path)
