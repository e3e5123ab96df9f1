"""Chaos: the schedule is the seed's, stalls are those of the gaps that faults struck, and harm is proven."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from benchmarks.cases.chaos import Options, possible_kinds
from benchmarks.chaos import faults
from benchmarks.chaos.history import PlanShape, Step
from benchmarks.chaos.schedule import MOST_GAP_S, WEIGHTS, Kind, draw, pick
from benchmarks.chaos.stalls import (
    Absence,
    Strike,
    bereft_spans,
    gaps,
    percentile,
    stall_figures,
    step_seconds,
    tokens_per_s,
)
from swarm.errors import ConfigError
from swarm.local.fleet import Program

ALL = tuple(Kind)


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert draw(3, 600.0, ALL) == draw(3, 600.0, ALL)
    assert draw(3, 600.0, ALL) != draw(4, 600.0, ALL)
    assert draw(3, 60.0, ALL) == draw(3, 600.0, ALL)[: len(draw(3, 60.0, ALL))], (
        "a longer run begins like a shorter one"
    )


@pytest.mark.parametrize("seed", range(20))
def test_faults_come_at_least_so_often_and_all_kinds_come(seed: int) -> None:
    schedule = draw(seed, 1800.0, ALL)
    times_s = [0.0, *(fault.at_s for fault in schedule), 1800.0]
    assert max(after - before for before, after in itertools.pairwise(times_s)) <= MOST_GAP_S
    assert [fault.number for fault in schedule] == list(range(len(schedule)))
    assert all(0 <= fault.choice < 1 and 2 <= fault.lasts_s <= 30 for fault in schedule)
    first_deck = Counter(fault.kind for fault in schedule[: sum(WEIGHTS.values())])
    assert first_deck == WEIGHTS


def test_only_possible_kinds_come() -> None:
    assert {fault.kind for fault in draw(1, 600.0, (Kind.KILL_OWNER,))} == {Kind.KILL_OWNER}
    with pytest.raises(ValueError, match="possible"):
        draw(1, 600.0, ())


def test_a_choice_picks_among_those_who_are_there() -> None:
    names = ["x", "y", "z"]
    assert [pick(choice, names) for choice in (0.0, 0.34, 0.99, 1.0)] == ["x", "y", "z", "z"]
    assert pick(0.5, []) == ""


def test_a_kind_that_is_not_possible_is_left_out_with_a_reason() -> None:
    kinds, left_out = possible_kinds(Options(standbys=0, owners=1, cut_off=False))
    assert kinds == [Kind.KILL_HOST, Kind.FREEZE_HOST, Kind.FREEZE_LEADER]
    assert left_out[Kind.KILL_LEADER] == "no standby scheduler"
    assert left_out[Kind.KILL_OWNER] == "only one owner"
    assert possible_kinds(Options(kinds="kill_host,kill_owner"))[0] == [Kind.KILL_HOST, Kind.KILL_OWNER]
    with pytest.raises(ConfigError, match="kill_cat"):
        possible_kinds(Options(kinds="kill_cat"))


def steps_at(*times_s: float) -> list[Step]:
    return [Step(number, 1, 1, 1, 10, 1.0, 1.0, at_s, ()) for number, at_s in enumerate(times_s)]


def test_a_stall_is_the_gap_beyond_the_usual_step() -> None:
    steps = steps_at(0.0, 1.0, 2.0, 7.0, 8.0, 9.5, 10.5)
    found = gaps(steps, [Strike(2.5, "kill_host"), Strike(3.0, "cut_host"), Strike(7.5, "kill_host")], 1.0, 2.0, 10.5)
    assert [(gap.step, gap.lasted_s, gap.stall_s) for gap in found] == [
        (2, 1.0, 0.0),
        (3, 5.0, 4.0),
        (4, 1.0, 0.0),
        (5, 1.5, 0.5),
        (6, 1.0, 0.0),
    ]
    assert [gap.kinds for gap in found] == [(), ("kill_host", "cut_host"), ("kill_host",), (), ()]
    figures = stall_figures(found)
    assert (figures["stall_s_p50"], figures["stall_s_max"], figures["stall_s_max_elsewhere"]) == (0.0, 4.0, 0.5)
    assert (figures["stall_s_median_kill_host"], figures["stall_s_max_cut_host"]) == (2.0, 4.0)


def test_a_gap_that_no_commit_ended_counts() -> None:
    found = gaps(steps_at(0.0, 1.0), [Strike(1.5, "kill_host")], 1.0, 0.0, 31.0)
    assert [gap.stall_s for gap in found] == [0.0, 29.0]
    assert gaps([], [], 1.0, 0.0, 31.0) == []


def test_percentiles_and_speeds() -> None:
    assert percentile([], 0.5) == 0.0
    assert [percentile([4, 1, 3, 2], share) for share in (0.0, 0.5, 0.75, 0.99)] == [1, 2, 3, 4]
    steps = steps_at(0.0, 1.0, 3.0, 4.0)
    assert step_seconds(steps, 0.5, 4.0) == [2.0, 1.0]
    assert tokens_per_s(steps, 0.0, 4.0) == 7.5


def sleeper(folder: Path) -> Program:
    """Speaks once its child runs: a parent that is stopped while it forks waits for the child, and is not "stopped"."""
    child = "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1)"
    code = f"import subprocess, sys; child = {child}; print('{{}}', flush=True); child.wait()"
    return Program("sleeper", [], folder, command=("-c", code))


def test_harm_is_proven(tmp_path: Path) -> None:
    program = sleeper(tmp_path)
    program.wait_until(lambda event: event == {}, "its first line", 60.0)
    process = psutil.Process(program.process.pid)
    assert "stopped" in faults.freeze(program)
    assert process.status() == psutil.STATUS_STOPPED
    assert "going on" in faults.thaw(program)
    assert process.status() != psutil.STATUS_STOPPED
    assert "signal 9" in faults.kill(program)


def test_a_child_that_outlives_its_parent_is_an_orphan(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    daemons = faults.Daemons(patience_s=0.0)
    daemons.watch("host-0", [psutil.Process(child.pid)])
    daemons.look()
    assert len(daemons.orphans) == 1
    assert child.wait(30.0) == -9
    gone = faults.Daemons(patience_s=60.0)
    gone.watch("host-0", [])
    gone.look()
    assert gone.orphans == []


def test_a_stall_is_told_apart_where_a_group_was_wholly_away() -> None:
    """Two of a stage away at once from 12 to 14; the plan that comes at 13 does without them."""
    before = PlanShape((frozenset("ab"), frozenset("cd")), frozenset("o"))
    after = PlanShape((frozenset("c"), frozenset("d")), frozenset("o"))
    absences = [Absence("a", 10.0, 20.0), Absence("b", 12.0, 14.0), Absence("c", 15.0, 16.0)]
    bereft = bereft_spans([(0.0, before), (13.0, after)], absences)
    assert bereft == [(12.0, 13.0), (15.0, 16.0)]
    found = gaps(steps_at(9.0, 11.5, 14.5, 19.0, 21.0), [Strike(10.0, "kill_host")], 0.5, 0.0, 21.0, bereft)
    assert [gap.was_bereft for gap in found] == [False, True, True, False]
    figures = stall_figures(found)
    assert figures["stalls_with_a_group_away"] == 2
    assert figures["stall_s_max_with_a_group_away"] == 4.0
    assert figures["stall_s_max_with_every_group_there"] == 2.0
