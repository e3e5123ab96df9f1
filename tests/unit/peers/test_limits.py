"""Limits: when a peer may work, what it announces, and what it keeps of both on its disk."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers import surroundings
from peers.limiting import Limiting
from peers.limits import QUIET_S, Circumstances, Limits, announced, why_not_now, window
from peers.limits_file import Today, keep_limits, load_limits
from peers.peer import Peer
from swarm.errors import ConfigError, NotRunning, UnknownKey
from tests.support.runs import capabilities

FREE = Circumstances(minute=12 * 60, on_battery=False, unused_s=math.inf, today_bytes=0)


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("22-7", (22 * 60, 23 * 60, 0, 6 * 60 + 59), (7 * 60, 12 * 60, 21 * 60 + 59)),
        ("9:30-17", (9 * 60 + 30, 16 * 60 + 59), (9 * 60 + 29, 17 * 60, 0)),
        ("18-24", (18 * 60, 23 * 60 + 59), (0, 17 * 60)),
        ("", (0, 719, 1439), ()),
    ],
)
def test_hours_are_those_of_a_clock(hours: str, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    limits = Limits(hours=hours)
    assert not any(why_not_now(limits, replace(FREE, minute=minute)) for minute in inside)
    assert all("it may work from" in why_not_now(limits, replace(FREE, minute=minute)) for minute in outside)


@pytest.mark.parametrize("hours", ["7", "7-7", "0-24", "24-25", "9:60-17", "25-3", "late", "-1-5", "1-2-3"])
def test_what_is_no_two_times_of_day_is_refused(hours: str) -> None:
    with pytest.raises(ConfigError, match="22-7"):
        Limits(hours=hours)


def test_battery_use_and_the_days_amount_each_keep_it_from_working() -> None:
    limits = Limits(daily_bytes=1 << 30, only_when_idle=True, only_on_mains=True)
    assert not why_not_now(limits, FREE)
    assert "battery" in why_not_now(limits, replace(FREE, on_battery=True))
    assert "1 GiB" in why_not_now(limits, replace(FREE, today_bytes=1 << 30))
    assert "uses the machine" in why_not_now(limits, replace(FREE, unused_s=QUIET_S - 1))


_LIMITS = st.builds(
    Limits,
    daily_bytes=st.integers(0, 1 << 40),
    hours=st.sampled_from(["", "22-7", "9:30-17", "0:01-0"]),
    only_when_idle=st.booleans(),
    only_on_mains=st.booleans(),
)
_NOW = st.builds(
    Circumstances,
    minute=st.integers(0, 1439),
    on_battery=st.booleans(),
    unused_s=st.floats(0, math.inf),
    today_bytes=st.integers(0, 1 << 41),
)


@given(_LIMITS, _NOW)
def test_a_peer_may_work_where_no_single_limit_keeps_it_from_that(limits: Limits, now: Circumstances) -> None:
    single = [
        Limits(daily_bytes=limits.daily_bytes),
        Limits(hours=limits.hours),
        Limits(only_when_idle=limits.only_when_idle),
        Limits(only_on_mains=limits.only_on_mains),
    ]
    assert bool(why_not_now(limits, now)) == any(why_not_now(each, now) for each in single)
    assert not why_not_now(Limits(), now), "without limits always"


@given(st.integers(0, 1439), st.integers(0, 1439))
def test_hours_and_the_other_hours_make_a_day(first: int, last: int) -> None:
    if first == last:
        return
    one, other = (f"{a // 60}:{a % 60:02d}-{b // 60}:{b % 60:02d}" for a, b in ((first, last), (last, first)))
    assert window(one) == (first, last)
    for minute in (0, first, last, (first - 1) % 1440, (last - 1) % 1440, 1439):
        now = replace(FREE, minute=minute)
        assert bool(why_not_now(Limits(hours=one), now)) != bool(why_not_now(Limits(hours=other), now))


def test_a_peer_announces_the_lesser_of_what_it_has_and_what_it_may() -> None:
    facts = capabilities(memory_bytes=1000, up_bytes_per_s=5e6, down_bytes_per_s=6e6)
    assert announced(Limits(), facts) == facts
    less = announced(Limits(memory_bytes=400, up_bytes_per_s=7e6, down_bytes_per_s=6e5), facts)
    assert (less.memory_bytes, less.up_bytes_per_s, less.down_bytes_per_s) == (400, 5e6, 6e5)


@pytest.mark.parametrize("rate", [1.0, -1.0, float("nan"), 1e16])
def test_a_rate_that_nobody_could_take_part_with_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError):
        Limits(up_bytes_per_s=rate)
    with pytest.raises(ConfigError):
        Limits(down_bytes_per_s=rate)


def test_limits_come_back_from_the_disk_as_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert load_limits(folder) == Limits()
    limits = Limits(memory_bytes=5 << 30, up_bytes_per_s=1.25e6, hours="22-7", only_on_mains=True)
    keep_limits(folder, limits)
    assert load_limits(folder) == limits
    (folder / "limits.toml").write_text('hour = "22-7"\n', encoding="utf-8")
    with pytest.raises(UnknownKey, match="did you mean hours"):
        load_limits(folder)
    (folder / "limits.toml").write_text("daily_bytes = -1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="below 0"):
        load_limits(folder)


def test_a_days_amount_is_counted_over_restarts_and_anew_at_midnight(tmp_path: Path) -> None:
    first = Today(tmp_path)
    assert first.count("monday", 100) == 100
    first.keep(100)
    second = Today(tmp_path)
    assert second.count("monday", 0) == 100
    assert second.count("monday", 30) == 130
    assert second.count("tuesday", 50) == 0
    assert second.count("tuesday", 80) == 30
    second.keep(30)
    assert Today(tmp_path).count("wednesday", 5) == 5
    (tmp_path / "today.json").write_bytes(b"[")
    assert Today(tmp_path).count("tuesday", 5) == 5


def test_the_machine_is_used_while_other_programs_keep_it_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.0, "busy": 0.0, "own": 0.0}
    monkeypatch.setattr(surroundings.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(surroundings, "_busy_s", lambda: clock["busy"])
    monkeypatch.setattr(surroundings, "_own_s", lambda: clock["own"])
    monkeypatch.setattr(surroundings, "_untyped_s", lambda: math.inf)
    monkeypatch.setattr(surroundings.psutil, "cpu_count", lambda: 2)
    use = surroundings.Use()

    def passes(busy_s: float, own_s: float) -> float:
        clock["now"] += 10.0
        clock["busy"] += busy_s
        clock["own"] += own_s
        return use.unused_s()

    assert passes(busy_s=20.0, own_s=19.0) == math.inf, "it was us"
    assert passes(busy_s=8.0, own_s=0.0) == 0.0
    assert passes(busy_s=1.0, own_s=0.0) == 10.0
    assert passes(busy_s=15.0, own_s=15.0) == 20.0


def test_the_verb_keeps_limits_for_the_next_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peers.control import ask
    from peers.limits_verb import limits

    limits(tmp_path, hours="22-7", daily_gib=2.5, only_on_mains=True)
    shown = capsys.readouterr().out
    assert "22-7" in shown
    assert "kept for the next start" in shown
    limits(tmp_path, daily_gib=0.0)
    assert load_limits(tmp_path) == Limits(hours="22-7", only_on_mains=True), "what is not named stays"
    with pytest.raises(NotRunning):
        ask(tmp_path, "limits")


def test_a_machine_that_cannot_say_how_it_is_used_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors for a while, it does not even name its battery; that ended the whole peer."""
    told: list[str] = []
    peer = SimpleNamespace(
        traffic=SimpleNamespace(sent_bytes=1, received_bytes=2),
        limit=lambda limits: None,
        pause=lambda who, why: told.append(why),
        unpause=lambda who: told.append(""),
    )
    limiting = Limiting(cast(Peer, peer), tmp_path)

    def refuses() -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    limiting.reload()
    assert told == [""]
    monkeypatch.setattr("peers.limiting.on_battery", refuses)
    limiting.reload()
    assert told == [""]
