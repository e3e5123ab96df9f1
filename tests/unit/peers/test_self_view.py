"""What a peer says of itself."""

from __future__ import annotations

from peers.attendance import Attending
from peers.self_view import Part, SelfView, Standstill, as_lines, share_of, what_for
from tests.support.plans import plan


def test_a_share_is_the_plans() -> None:
    routed = plan("ab", "c", weights=((3.0, 1.0), (1.0,)))
    assert share_of(routed, 0, "b") == 0.25
    assert share_of(routed, 1, "c") == 1.0
    assert share_of(routed, 2, "o") is None, "an owner takes what is lent"


def test_a_standstill_lasts_until_something_moves() -> None:
    standstill = Standstill()
    assert standstill.lasts_s(10.0, "leases", 64) == 0
    assert standstill.lasts_s(12.5, "leases", 64) == 2.5
    assert standstill.lasts_s(13.0, "leases", 128) == 0
    assert standstill.lasts_s(14.0, "the leader", 128) == 0


def test_who_is_paused_waits_for_its_people() -> None:
    attending = Attending()
    attending.pause("people", "lunch")
    assert what_for(attending, "leases") == "leases"
    attending.let_go()
    assert what_for(attending, "a plan that needs this peer") == "the pause to end"


def test_it_reads_as_a_person_would_ask() -> None:
    view = SelfView(
        peer="12D3KooWpeer",
        run="test",
        roles=("host",),
        state="pausing",
        reason="somebody at this machine asked for it",
        leader="12D3KooWleader",
        is_cut_off=False,
        reached="dialled at 8.8.8.8",
        parts=(Part("layers 0-1", 12, 0.5),),
        beside=(),
        computed_tokens=4096,
        computed_microbatches=128,
        sent_bytes=3 << 20,
        received_bytes=1 << 19,
        today_bytes=5 << 20,
        waiting_for="activations and gradients",
        waiting_s=1.2,
        running_s=60.0,
    )
    lines = dict(as_lines(view.as_json()))
    assert lines["state"] == "pausing: somebody at this machine asked for it"
    assert lines["part"] == "layers 0-1, step 12, 50% of its microbatches"
    assert lines["work"] == "128 microbatches, 4,096 tokens"
    assert lines["line"] == "3.0 MiB up, 0.5 MiB down"
    assert lines["today"] == "5.0 MiB up and down"
    assert lines["reached"] == "dialled at 8.8.8.8"
    assert lines["waits for"] == "activations and gradients, for 1 s"
