"""What the doctor makes of what it sees."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from peers.findings import Finding, exit_status, judge_addresses, judge_reach, missing
from swarm.errors import ClockOff
from swarm.net.reach import Reach

HOME, PUBLIC, HERE = "/ip4/192.168.1.7/tcp/4001/p2p/a", "/ip4/8.8.8.8/tcp/4001/p2p/b", "/ip4/127.0.0.1/tcp/4001/p2p/c"


def test_the_first_thing_that_keeps_it_from_working_is_the_exit_status() -> None:
    good = Finding("disk", "good", "enough")
    off = Finding.of_error("clock", ClockOff("it is off", "set it"))
    slow = Finding("device", "warning", "slow", "S100", "nothing")
    assert exit_status([good, slow, Finding("clock", "unknown", "nobody said")]) == 0
    assert exit_status([good, slow, off, Finding("run", "bad", "gone", "S203", "ask")]) == 13
    assert off.as_json()["code"] == "S309"


def test_packages_are_missing_or_too_old_whatever_they_are_called() -> None:
    wanted = ["torch>=2.10", "nvidia-ml-py>=12", 'nicegui>=3; extra == "dashboard"', "uvloop>=0.21", "numpy>=2.0"]
    installed = {"torch": "2.10.0+cpu", "nvidia_ml_py": "13.580.82", "NumPy": "1.26.4"}
    assert missing(wanted, installed) == ["uvloop is missing", "numpy is 1.26.4, and 2.0 is needed"]


@pytest.mark.parametrize(
    ("ours", "others", "verdict"),
    [
        ([HERE], [HERE], "good"),
        ([HERE], [PUBLIC], "bad"),
        ([HERE], [HOME], "bad"),
        ([HERE, HOME], [HOME], "good"),
        ([HERE, HOME], [PUBLIC], "warning"),
        ([PUBLIC], [PUBLIC], "good"),
    ],
)
def test_addresses_tell_who_can_dial_us(ours: Sequence[str], others: Sequence[str], verdict: str) -> None:
    found = judge_addresses(ours, others)
    assert found.verdict == verdict
    assert bool(found.remedy) == (verdict != "good")


def test_what_members_found_that_dialled_us() -> None:
    assert judge_reach(Reach(None)) is None
    for reach, verdict, code in (
        (Reach(True, "8.8.8.8"), "good", ""),
        (Reach(False, "8.8.8.8", "12D3KooWrelay"), "good", ""),
        (Reach(False, "8.8.8.8"), "bad", "S206"),
    ):
        found = judge_reach(reach)
        assert found is not None
        assert (found.verdict, found.code) == (verdict, code)
        assert "8.8.8.8" in found.text
