"""Single events of small swarms, with the answer worked out by hand."""

from __future__ import annotations

import pytest

from scheduler.planner.moves import Decision, Policy
from scheduler.planner.occupancy import Phase
from scheduler.planner.replan import Replanner
from swarm.errors import RunError
from tests.property.test_replan import claim, start


def two_stages(*, copy_cover: float = 0.0, per_stage: int = 3) -> Replanner:
    return start([3, 3], per_stage, Policy(horizon_s=600.0, copy_cover=copy_cover))


def test_a_host_that_joins_goes_where_least_is_planned_and_counts_when_it_has_arrived() -> None:
    replanner = two_stages()
    replanner.leave("s1.0")
    now = list(replanner.places.now)
    decision = replanner.join(claim("new"))
    (move,) = decision.moves
    assert (move.from_stage, move.to_stage) == (-1, 1)
    assert move.num_bytes == 3 * 75.0
    # Three hosts serve stage 0 and two serve stage 1: together they offer more than the joiner's own line.
    assert move.load_s == pytest.approx(225.0 / 1000)
    assert replanner.places.now == now
    replanner.arrived("new")
    assert replanner.places.now[1] == pytest.approx(replanner.places.now[0])
    assert replanner.arrived("new") == Decision()


def test_a_level_swarm_is_left_alone() -> None:
    replanner = two_stages()
    assert replanner.drifted(claim("s0.0", layer_s=0.1001)) == Decision()


def test_a_stage_with_one_host_gets_one_from_a_stage_with_three() -> None:
    replanner = two_stages()
    replanner.leave("s1.0")
    decision = replanner.leave("s1.1")
    (move,) = decision.moves
    assert (move.from_stage, move.to_stage) == (0, 1)
    assert "has 1 hosts" in move.reason


def test_a_mover_goes_on_with_its_old_stage_until_it_has_loaded() -> None:
    replanner = two_stages()
    replanner.leave("s1.0")
    (move,) = replanner.leave("s1.1").moves
    assert move.serves_meanwhile
    assert replanner.places.num_serving == [3, 1]
    assert replanner.places.num_planned == [2, 2]
    replanner.arrived(move.host)
    assert replanner.places.num_serving == [2, 2]
    stopping = start([3, 3], 3, Policy(horizon_s=600.0, serves_while_loading=False))
    stopping.leave("s1.0")
    (move,) = stopping.leave("s1.1").moves
    assert not move.serves_meanwhile
    assert stopping.places.num_serving == [2, 1]


def test_nobody_leaves_a_stage_of_two() -> None:
    replanner = two_stages(per_stage=2)
    assert replanner.leave("s1.0") == Decision()


def test_a_line_that_would_slow_everybody_down_stands_by_until_it_is_needed() -> None:
    replanner = two_stages()
    assert replanner.join(claim("slow", line=0.05)).moves == ()
    assert replanner.places.hosts["slow"].phase is Phase.STANDBY
    replanner.leave("s1.0")
    # A second replica is worth any line, and it costs stage 0 nothing.
    (move,) = replanner.leave("s1.1").moves
    assert move.to_stage == 1


def test_a_host_with_a_copy_switches_without_fetching_and_keeps_what_it_left() -> None:
    replanner = two_stages(copy_cover=1.0, per_stage=6)
    copies = replanner.drifted(claim("s0.0", layer_s=0.1001)).copies
    assert {copy.stage for copy in copies} <= {0, 1}
    while copies:
        copies = tuple(more for copy in copies for more in replanner.copied(copy.host, copy.stage).copies)
    assert replanner.copy_step_bytes == pytest.approx(12 * 3 * 20.0)
    decision = Decision()
    for number in range(3):
        decision = replanner.leave(f"s1.{number}")
        if decision.moves:
            break
    move = decision.moves[0]
    assert (move.from_stage, move.to_stage, move.num_bytes, move.load_s) == (0, 1, 0.0, 5.0)
    host = replanner.places.hosts[move.host]
    assert (host.phase, host.copy, host.copy_whole) == (Phase.SWITCHING, 0, True)


def test_copies_are_kept_where_lines_carry_them() -> None:
    # A step of 8 microbatches takes some seconds; each copy brings its host a gradient of three layers in it.
    roomy = start([3, 3], 3, Policy(copy_cover=1.0, copy_line_share=1.0)).copy_more()
    assert len(roomy.copies) == 2
    tight = start([3, 3], 3, Policy(copy_cover=1.0, copy_line_share=1e-6)).copy_more()
    assert tight == Decision()


def test_a_host_on_which_a_copy_came_to_nothing_is_asked_for_none() -> None:
    replanner = two_stages(copy_cover=0.3)
    (first, _) = replanner.copy_more().copies
    assert first.host not in {copy.host for copy in replanner.uncopied(first.host).copies}
    assert replanner.places.hosts[first.host].copy == -1
    assert replanner.uncopied("nobody") == Decision()


def test_a_standby_is_known_for_its_copy_when_it_comes_and_when_its_line_changes() -> None:
    policy = Policy(copy_cover=1.0)
    replanner = start([3, 3], 3, policy, {"z": (1, True)})
    replanner.join(claim("z", line=0.05))  # its line would slow everybody down
    host = replanner.places.hosts["z"]
    assert (host.stage, host.copy, host.copy_whole) == (-1, 1, True)
    replanner.relined(claim("z", line=0.06))
    host = replanner.places.hosts["z"]
    assert (host.stage, host.copy, host.copy_whole) == (-1, 1, True)
    replanner.leave("z")
    replanner.join(claim("z", line=0.05))
    assert not replanner.places.hosts["z"].copy_whole, "it comes with nothing"


def test_a_host_that_is_barred_from_copies_stays_so_when_it_comes_again() -> None:
    replanner = start([3, 3], 1, Policy(copy_cover=1.0))
    replanner.uncopied("s0.0")
    replanner.leave("s0.0")
    replanner.join(claim("s0.0"))
    assert replanner.places.hosts["s0.0"].copy == -1


def test_a_host_with_room_is_found_among_many_without() -> None:
    replanner = start([3, 3], 12, Policy(copy_cover=0.1))
    for name in sorted(replanner.places.hosts)[:-1]:
        replanner.places.remeasure(claim(name, room=0.7))
    found = [copy.host for _ in range(4) for copy in replanner.copy_more().copies]
    assert found == ["s1.9"]  # the last by name


def test_copies_outlive_another_plan() -> None:
    replanner = start([3, 3], 3, Policy(copy_cover=1.0), {"s0.0": (1, True), "s0.1": (1, False)})
    assert replanner.places.copies[1] == [(pytest.approx(replanner.places.hosts["s0.0"].rates[1]), "s0.0")]
    assert replanner.places.num_copies == [0, 2]


def test_a_solve_with_other_labels_moves_nobody() -> None:
    replanner = two_stages()
    swapped = {name: 1 - host.stage for name, host in replanner.places.hosts.items()}
    assert replanner.propose(swapped, [3, 3], budget_bytes=1e9) == Decision()


def test_a_solve_is_adopted_within_its_budget() -> None:
    replanner = two_stages(per_stage=4)
    for number in range(4):
        # Now twice as fast, all in one stage; two moves an event would mend it at once.
        replanner.places.remeasure(claim(f"s0.{number}", layer_s=0.05))
    target = {f"s{stage}.{number}": number % 2 for stage in range(2) for number in range(4)}
    assert replanner.propose(target, [3, 3], budget_bytes=100.0) == Decision()
    assert replanner.propose(target, [2, 4], budget_bytes=1e9) == Decision()
    decision = replanner.propose(target, [3, 3], budget_bytes=500.0)
    assert decision.moves
    assert all(move.to_stage == 1 for move in decision.moves if replanner.places.hosts[move.host].claim.layer_s < 0.1)
    assert decision.num_bytes <= 500.0


def test_impossible_events_are_named() -> None:
    replanner = two_stages()
    with pytest.raises(RunError, match=r"S700.*s0\.0 joined twice"):
        replanner.join(claim("s0.0"))
    with pytest.raises(RunError, match=r"S700.*nobody is no host"):
        replanner.arrived("nobody")
    assert replanner.leave("nobody") == Decision()
