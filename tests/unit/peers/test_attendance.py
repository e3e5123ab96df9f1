"""Working, pausing, leaving: every order of what people want ends where they want it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peers.attendance import Attendance, Attending


def test_a_pause_asks_once_and_ends_when_nobody_wants_it() -> None:
    attending = Attending()
    assert attending.pause("people", "lunch")
    assert not attending.pause("limits", "it is noon"), "the leader knows already"
    assert attending.is_going
    assert attending.let_go() is Attendance.PAUSED
    assert attending.reason == "lunch; it is noon"
    assert not attending.unpause("people")
    assert attending.unpause("limits")
    assert attending.state is Attendance.WORKING


def test_an_unpause_before_the_pause_was_reached_is_not_forgotten() -> None:
    attending = Attending()
    attending.pause("people", "lunch")
    assert not attending.unpause("people")
    assert attending.state is Attendance.PAUSING, "the leader plans without us by now"
    attending.let_go()
    assert attending.comes_back()


def test_who_pauses_may_leave_instead() -> None:
    attending = Attending()
    attending.pause("people", "lunch")
    assert not attending.leave(), "the leader knows already"
    assert attending.let_go() is Attendance.GONE


def test_who_leaves_does_not_pause() -> None:
    attending = Attending()
    assert attending.leave()
    assert not attending.pause("limits", "it is noon")
    assert not attending.unpause("limits")
    assert attending.let_go() is Attendance.GONE


_EVENTS = st.sampled_from(["pause a", "pause b", "unpause a", "unpause b", "leave", "let go", "rested", "at once"])


@given(st.lists(_EVENTS, max_size=40))
def test_the_leader_is_asked_once_for_every_time_at_work(events: list[str]) -> None:
    attending, asked, was_told_to_leave = Attending(), 0, False
    for event in events:
        before = attending.state
        is_asked = False
        match event.split():
            case ["pause", who]:
                is_asked = attending.pause(who, who)
            case ["unpause", who]:
                attending.unpause(who)
            case ["leave"]:
                is_asked = attending.leave()
                was_told_to_leave |= before in (Attendance.WORKING, Attendance.PAUSING)
            case ["let", "go"]:
                attending.let_go()
            case ["rested"]:
                attending.comes_back()
            case _:
                attending.leave_at_once()
                was_told_to_leave = True
        assert is_asked == (before is Attendance.WORKING and attending.is_going)
        asked += is_asked
        assert not (attending.state is Attendance.WORKING and attending.wishes)
        assert was_told_to_leave == (attending.state in (Attendance.LEAVING, Attendance.GONE))
        if before is Attendance.GONE:
            assert attending.state is Attendance.GONE
