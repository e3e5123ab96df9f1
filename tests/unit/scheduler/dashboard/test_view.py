"""What people are shown follows from what the run's folder tells."""

from __future__ import annotations

import json

from scheduler.dashboard import charts, tables, words
from scheduler.dashboard.books import LedgerBook
from scheduler.dashboard.view import REST
from swarm.run_files import StepRow
from tests.support.watched import NOW_S, ledger, peer_facts, seen, status

PEER = "12D3KooW" + "abcdefghij" * 4 + "Kmnp"


def test_lanes_follow_the_plan() -> None:
    lanes = seen().lanes
    assert [(lane.key, lane.detail) for lane in lanes[1:3]] == [("stage-0", "layers 1-2"), ("stage-1", "layer 3")]
    assert [[box.peer for box in lane.boxes] for lane in lanes] == [
        ["owner-a"],
        ["host-a", "host-b"],
        ["host-c"],
        ["host-d"],
    ]
    assert [box.share for box in lanes[1].boxes] == [0.25, 0.75]
    assert lanes[3].key == REST


def test_the_slowest_stage_is_the_bottleneck_and_others_have_their_load() -> None:
    lanes = seen().lanes
    assert [lane.key for lane in lanes if lane.is_bottleneck] == ["stage-1"]
    assert [round(lane.load, 3) for lane in lanes] == [0.2, 0.5, 1.0, 0.0]


def test_a_slow_owner_is_the_bottleneck() -> None:
    peers = status()["peers"] | {"owner-a": peer_facts("owner", ends_seconds=4.0)}
    assert [lane.key for lane in seen(peers=peers).lanes if lane.is_bottleneck] == ["owners"]


def test_conditions_of_peers() -> None:
    peers = status()["peers"] | {"host-b": peer_facts(state="lost"), "host-e": peer_facts(state="left")}
    peers["host-f"] = peer_facts(state="paused")
    found = {peer.peer: peer.condition for peer in seen(peers=peers).peers}
    assert found == {
        "host-a": "works",
        "host-b": "lost",
        "host-c": "waits",
        "host-d": "stands by",
        "host-e": "left",
        "host-f": "paused",
        "owner-a": "works",
    }


def test_only_a_late_step_waits_for_somebody_in_particular() -> None:
    late = seen(book=ledger(last_at_s=NOW_S - 5))
    assert [peer.peer for peer in late.peers if peer.holds_up] == ["host-c"]
    assert not [peer.peer for peer in seen().peers if peer.holds_up]


def test_a_scheduler_that_says_nothing_does_not_run() -> None:
    assert seen(written_at_s=NOW_S - 60).is_silent
    assert not seen(written_at_s=NOW_S - 60, phase="finished").is_silent
    assert words.state(seen(written_at_s=NOW_S - 60)) == ("not running", "bad")


def test_a_run_before_its_start_can_be_shown() -> None:
    found = seen(
        book=LedgerBook(), phase="not started", plan=None, peers={}, last_step={}, waiting_for=[], checkpoint=""
    )
    assert (found.lanes, found.peers, found.loss, found.gap) == ((), (), None, 0.0)
    for chart in (charts.loss, charts.throughput, charts.times):
        options, label = chart(found)
        assert label
        json.dumps(options, allow_nan=False)


def test_the_bound_and_the_plan_are_of_the_same_measurements() -> None:
    certified = {"event": "certified", "bound_tokens_per_s": 100.0}
    assert round(seen(certified).gap, 6) == 0.2
    bound = {"event": "bound", "plan": 3, "predicted_tokens_per_s": 120.0, "bound_tokens_per_s": 150.0}
    found = seen(certified, bound)
    assert (found.predicted_tokens_per_s, found.bound_tokens_per_s, round(found.gap, 6)) == (120.0, 150.0, 0.2)
    of_another_plan = seen(certified, bound | {"plan": 2})
    assert of_another_plan.predicted_tokens_per_s == 80.0


def test_charts_hold_what_was_measured_and_what_was_promised() -> None:
    told = [
        {"event": "certified", "bound_tokens_per_s": 100.0},
        {"event": "plan", "number": 3, "predicted_tokens_per_s": 80.0},
        *({"event": "step", "step": step, "phase_s": {"open": 0.75, "reducing": 0.25}} for step in range(1, 6)),
    ]
    found = seen(*told)
    losses, _ = charts.loss(found)
    assert losses["series"][0]["data"] == [[1, 2.0], [2, 1.9688], [3, 1.9375], [4, 1.9062], [5, 1.875]]
    rates, label = charts.throughput(found)
    measured, plan, bound = (series["data"] for series in rates["series"])
    assert measured == [[1, None], [2, 32.0], [3, 32.0], [4, 32.0], [5, 32.0]], "how long the first took is not known"
    assert (plan, bound) == ([[1, 80.0], [5, 80.0]], [[1, 100.0], [5, 100.0]])
    assert "80 planned, 100 at most" in label
    shares, label = charts.times(found)
    assert [series["name"] for series in shares["series"]] == ["computing", "all-reduce"]
    assert "computing 75%" in label


def test_a_pause_between_terms_is_no_slow_step() -> None:
    book = ledger(2)
    book.take_step(StepRow(2, 2, 4, 32, 60.0, 0.5, NOW_S + 3600))
    book.take_step(StepRow(3, 2, 4, 32, 60.0, 0.5, NOW_S + 3602))
    rates = [point.ratio("timed_tokens", "seconds") for point in book.history.points]
    assert rates == [None, 32.0, None, 16.0]


def test_contributions_are_the_ledgers_also_of_peers_that_are_gone() -> None:
    book = ledger()
    book.take_work("host-old", "hosted", 30, 480, 2)
    rows = tables.peers(seen(book=book))
    assert [(row["id"], row["tokens"], row["share"]) for row in rows[:3]] == [
        ("host-old", 480, 60.0),
        ("host-a", 160, 20.0),
        ("owner-a", 160, 20.0),
    ]
    assert rows[0]["state"] == "unknown"


def test_events_name_peers_as_people_tell_them_apart_and_are_found_by_peer() -> None:
    event = {"event": "lost", "peer": PEER, "problem": f"{PEER} does not answer", "step": 4, "time_s": 990.0}
    (line,) = seen(event).events
    assert line.text == f"lost {PEER[-6:]} in step 4: {PEER[-6:]} does not answer"
    assert (line.peers, line.is_serious) == ((PEER,), True)
    (line,) = seen({"event": "plan_change", "reasons": [f"{PEER} leaves"]}).events
    assert line.peers == (PEER,)


def test_frequent_events_do_not_push_others_out() -> None:
    steps = ({"event": "step", "step": step, "phase_s": {}} for step in range(1, 2000))
    found = seen({"event": "leading", "term": 1}, *steps)
    assert [line.kind for line in found.events] == ["leading"]
    assert found.counts["step"] == 1999


def test_all_of_it_is_json() -> None:
    found = json.loads(json.dumps(seen({"event": "leading", "term": 1}).as_json(), allow_nan=False))
    assert found["lanes"][2]["is_bottleneck"] is True
    assert found["peers"][0]["done"]["hosted"] == 10


def test_a_peers_page_has_its_facts() -> None:
    peer = seen({"event": "rerated", "peer": "host-a", "layer_s": 1.0}).peer("host-a")
    assert peer is not None
    facts = dict(words.facts(peer))
    assert facts["hosted"] == "10 microbatches, 160 tokens"
    assert facts["a layer, as it claimed"] == "500 ms a microbatch"
    assert facts["a layer, as plans count on"] == "1,000 ms a microbatch"
    assert seen().peer("nobody") is None
