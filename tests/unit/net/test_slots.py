"""Who may have a relay's slot, who may be called through it, and for how long."""

from __future__ import annotations

from swarm.net.slots import SLOT_S, Slots
from swarm.wire.circuit import Verdict


def test_strangers_are_not_listened_to_and_members_only_so_often() -> None:
    slots = Slots(most_streams=3, most_of_one=2)
    assert not slots.enter("stranger", is_member=False)
    assert slots.enter("a", is_member=True)
    assert slots.enter("a", is_member=True)
    assert not slots.enter("a", is_member=True), "its own share"
    assert slots.enter("b", is_member=True)
    assert not slots.enter("c", is_member=True), "everybody's share"
    slots.leave("a")
    assert slots.enter("c", is_member=True)


def test_a_slot_ends_unless_it_is_renewed() -> None:
    slots = Slots()
    assert slots.call("a", 0.0) is Verdict.NO_RESERVATION
    assert slots.take("a", 0.0) is Verdict.OK
    assert slots.call("a", SLOT_S - 1) is Verdict.OK
    assert slots.take("a", SLOT_S - 1) is Verdict.OK
    assert slots.call("a", SLOT_S) is Verdict.OK
    assert slots.holders(2 * SLOT_S - 2) == {"a"}
    assert slots.call("a", 2 * SLOT_S - 1) is Verdict.NO_RESERVATION
    assert slots.holders(2 * SLOT_S - 1) == frozenset()


def test_slots_are_few_and_those_that_ended_make_room() -> None:
    slots = Slots(most=1)
    assert slots.take("a", 0.0) is Verdict.OK
    assert slots.take("b", 1.0) is Verdict.RESERVATION_REFUSED
    assert slots.take("a", 2.0) is Verdict.OK, "who has one keeps it"
    assert slots.take("b", 2.0 + SLOT_S) is Verdict.OK


def test_a_member_is_called_only_so_often_at_once() -> None:
    slots = Slots(most_of_one=1)
    slots.take("a", 0.0)
    assert slots.call("a", 1.0) is Verdict.OK
    assert slots.call("a", 1.0) is Verdict.RESOURCE_LIMIT_EXCEEDED
    slots.hang_up("a")
    assert slots.call("a", 1.0) is Verdict.OK


def test_who_is_no_member_any_more_has_no_slot() -> None:
    slots = Slots()
    slots.take("a", 0.0)
    slots.take("b", 0.0)
    slots.keep({"b"})
    assert slots.holders(1.0) == {"b"}
    assert slots.call("a", 1.0) is Verdict.NO_RESERVATION
