"""The step leader: each transition of its state table, and what it ignores."""

from __future__ import annotations

import math

import pytest

from scheduler.instructions import Applied, CheckPeers, Finish, Halt, Instruction, Lost, NewPlan, Record, Regroup, Send
from scheduler.step import MAX_FAILED_ROUNDS, Phase, StepLeader
from swarm.plan import Plan
from swarm.wire.messages import (
    CannotContinue,
    CloseStep,
    CommitStep,
    GoRound,
    GrantLeases,
    Lease,
    MicrobatchDone,
    PeersLost,
    ReopenStep,
    ReplayWork,
    RoundFailed,
    RoundReduced,
    RunPaused,
    StepApplied,
    StepClosed,
    Work,
)
from tests.support.plans import plan

PLAN = plan(["a", "b"], ["c"], owners=("o", "p"), window=2)
TOKENS = 8
ROUTES = [("a", "c"), ("b", "c")]


def leader(
    steps: int = 3, found: Plan = PLAN, batch: int = 4, checkpoint_every: int = 2, staleness: int = 0
) -> StepLeader:
    made = StepLeader(
        plan=found,
        term=7,
        global_batch=batch,
        microbatch_tokens=TOKENS,
        next_step=0,
        num_steps=steps,
        checkpoint_every_steps=checkpoint_every,
        staleness=staleness,
    )
    return made


def done(
    number: int, route: tuple[str, ...], *, step: int = 0, lease: int = 0, attempt: int = 0, **changes: object
) -> MicrobatchDone:
    fields = {"tokens": TOKENS, "loss_sum": 2.0, "cursor": number} | changes
    return MicrobatchDone(work=Work(step, Lease(number, lease), attempt), route=route, **fields)  # type: ignore[arg-type]


def sent(instructions: list[Instruction], kind: type) -> list[tuple[str, object]]:
    return [
        (instruction.peer, instruction.message)
        for instruction in instructions
        if isinstance(instruction, Send) and isinstance(instruction.message, kind)
    ]


def granted(instructions: list[Instruction]) -> dict[str, list[Lease]]:
    found: dict[str, list[Lease]] = {}
    for peer, order in sent(instructions, GrantLeases):
        assert isinstance(order, GrantLeases)
        found.setdefault(peer, []).extend(order.leases)
    return found


def fill(lead: StepLeader, step: int = 0, route: tuple[str, ...] | None = None) -> list[Instruction]:
    """Every microbatch of the open step is done by whom it was granted to."""
    instructions: list[Instruction] = []
    for number, (owner, lease) in enumerate(_owners_of(lead)):
        instructions = lead.done(owner, done(number, route or ROUTES[number % 2], step=step, lease=lease))
    return instructions


def _owners_of(lead: StepLeader) -> list[tuple[str, int]]:
    return [(entry.owner, entry.lease) for entry in lead._ledger._entries]


def close_all(lead: StepLeader) -> list[Instruction]:
    instructions: list[Instruction] = []
    for stage, peer in list(lead._members()):
        report = StepClosed(step=lead.step, stage=stage, round=lead.round, missing=())
        instructions = lead.closed(peer, report)
    return instructions


def reduced(lead: StepLeader, stage: int, digest: str = "", square: float = 4.0) -> RoundReduced:
    return RoundReduced(step=lead.step, stage=stage, round=lead.round, digest=digest or f"g{stage}", square_norm=square)


def reduce_all(lead: StepLeader) -> list[Instruction]:
    instructions: list[Instruction] = []
    for stage, peer in list(lead._members()):
        instructions = lead.reduced(peer, reduced(lead, stage))
    return instructions


def reducing() -> StepLeader:
    lead = leader()
    lead.start()
    fill(lead)
    close_all(lead)
    assert lead.phase is Phase.REDUCING
    return lead


# --- OPEN ------------------------------------------------------------------------------------------------------------


def test_a_step_opens_with_equal_shares() -> None:
    lead = leader()
    instructions = lead.start()
    assert granted(instructions) == {"o": [Lease(0, 0), Lease(1, 0)], "p": [Lease(2, 0), Lease(3, 0)]}
    order = sent(instructions, GrantLeases)[0][1]
    assert isinstance(order, GrantLeases)
    assert (order.term, order.plan, order.step) == (7, 1, 0)


def test_an_owner_gets_twice_its_window_and_then_one_by_one() -> None:
    """It never waits for the leader's answer to start the next; window 2."""
    lead = leader(batch=11)
    first = granted(lead.start())
    assert first == {"o": [Lease(n, 0) for n in range(4)], "p": [Lease(n, 0) for n in range(4, 8)]}
    assert granted(lead.done("p", done(4, ROUTES[0]))) == {"p": [Lease(8, 0)]}
    assert granted(lead.done("p", done(8, ROUTES[0]))) == {"p": [Lease(9, 0)]}
    assert granted(lead.done("o", done(0, ROUTES[0]))) == {"o": [Lease(10, 0)]}
    assert lead.done("o", done(1, ROUTES[0])) == []


# --- staleness 1 -----------------------------------------------------------------------------------------------------


def leases_by_step(instructions: list[Instruction]) -> dict[int, int]:
    found: dict[int, int] = {}
    for _, order in sent(instructions, GrantLeases):
        assert isinstance(order, GrantLeases)
        found[order.step] = found.get(order.step, 0) + len(order.leases)
    return found


def test_the_next_step_is_lent_while_this_one_is_finished() -> None:
    lead = leader(staleness=1)
    assert leases_by_step(lead.start()) == {0: 4}
    assert leases_by_step(lead.done("o", done(0, ROUTES[0]))) == {1: 1}
    fill(lead)
    assert lead.phase is Phase.CLOSING
    lead.done("o", done(0, ROUTES[0], step=1))
    assert lead._open_ledgers.open(1).outstanding("o") == 1, "done in every phase"
    close_all(lead)
    told = reduce_all(lead)
    assert len(sent(told, CommitStep)) == 5
    assert leases_by_step(told) == {2: 1}, "what is still out of step 1 counts"
    assert (lead.phase, lead.step) == (Phase.OPEN, 1)


def test_a_step_that_ran_ahead_to_its_end_closes_at_once() -> None:
    lead = leader(staleness=1)
    lead.start()
    fill(lead)
    for number, entry in enumerate(lead._open_ledgers.open(1)._entries):
        lead.done(entry.owner, done(number, ROUTES[0], step=1))
    close_all(lead)
    told = reduce_all(lead)
    assert (lead.phase, lead.step) == (Phase.CLOSING, 1)
    kinds = [type(each.message) for each in told if isinstance(each, Send)]
    assert kinds.index(CloseStep) > kinds.index(CommitStep)


def test_a_lost_peers_share_of_both_steps_is_replayed() -> None:
    lead = leader(staleness=1)
    lead.start()
    lead.done("o", done(0, ROUTES[0]))
    lead.done("p", done(2, ROUTES[0]))
    (lease,) = [number for number, entry in enumerate(lead._open_ledgers.open(1)._entries) if entry.owner == "o"]
    lead.done("o", done(lease, ROUTES[0], step=1))
    replays = [order for _, order in sent(lead.peer_lost("a"), ReplayWork) if isinstance(order, ReplayWork)]
    assert sorted(order.step for order in replays) == [0, 0, 1]


def test_nobody_runs_ahead_of_a_plan_without_its_lost_member() -> None:
    lead = leader(staleness=1, steps=9)
    lead.start()
    lead.peer_lost("a")
    fill(lead, 0, ROUTES[1])
    close_all(lead)
    told = reduce_all(lead)
    assert not [each for each in told if isinstance(each, NewPlan)], "step 1 has begun under this plan"
    assert lead._open_ledgers.steps == (1,)
    fill(lead, 1, ROUTES[1])
    close_all(lead)
    told = reduce_all(lead)
    (new,) = [each.plan for each in told if isinstance(each, NewPlan)]
    assert (new.number, new.first_step) == (2, 2)
    assert lead._open_ledgers.steps == (2, 3)


def told_paused(instructions: list[Instruction]) -> dict[str, bool]:
    return {peer: order.paused for peer, order in sent(instructions, RunPaused) if isinstance(order, RunPaused)}


def test_a_paused_run_commits_the_step_under_way_and_begins_none() -> None:
    lead = leader()
    lead.start()
    assert lead.pause() == []
    assert sent(fill(lead), CloseStep), "the open step goes on"
    close_all(lead)
    told = reduce_all(lead)
    assert len(sent(told, CommitStep)) == 5
    assert not sent(told, GrantLeases)
    assert told_paused(told) == dict.fromkeys("abcop", True)
    assert (lead.phase, lead.step) == (Phase.PAUSED, 1)
    told = lead.unpause()
    assert told_paused(told) == dict.fromkeys("abcop", False)
    assert leases_by_step(told) == {1: 4}
    assert lead.phase is Phase.OPEN


def test_a_leader_of_a_paused_run_begins_no_step() -> None:
    lead = leader()
    lead.pause()
    assert not sent(lead.start(), GrantLeases)
    assert lead.phase is Phase.PAUSED
    assert not sent(lead.peer_lost("a"), ReopenStep), "nobody has begun"
    assert lead.phase is Phase.PAUSED
    assert leases_by_step(lead.unpause()) == {0: 4}
    assert lead.unpause() == []


def test_what_ran_ahead_of_a_pause_counts_after_it() -> None:
    lead = leader(staleness=1)
    lead.start()
    lead.pause()
    fill(lead)
    close_all(lead)
    entries = list(enumerate(lead._open_ledgers.open(1)._entries))
    reduce_all(lead)
    assert lead.phase is Phase.PAUSED
    for number, entry in entries:
        assert not lead.done(entry.owner, done(number, ROUTES[0], step=1)), "taken, and nothing begins"
    assert sent(lead.unpause(), CloseStep)


def test_nobody_runs_ahead_of_the_last_step() -> None:
    lead = leader(staleness=1, steps=1)
    assert leases_by_step(lead.start()) == {0: 4}
    assert lead.done("o", done(0, ROUTES[0])) == []


@pytest.mark.parametrize(
    ("owner", "report"),
    [
        ("p", done(0, ROUTES[0])),  # somebody else's
        ("a", done(0, ROUTES[0])),
        ("o", done(0, ROUTES[0], step=1)),
        ("o", done(9, ROUTES[0])),
        ("o", done(0, ROUTES[0], lease=1)),
        ("o", done(0, ROUTES[0], tokens=TOKENS + 1)),
        ("o", done(0, ROUTES[0], loss_sum=math.nan)),
        ("o", done(0, ROUTES[0], loss_sum=math.inf)),
        ("o", done(0, ROUTES[0], loss_sum=-1.7e308)),
        ("o", done(0, ("a",))),
        ("o", done(0, ("a", "c", "c"))),
        ("o", done(0, ("c", "a"))),
        ("o", done(0, ("stranger", "c"))),
    ],
)
def test_a_report_that_cannot_be_true_is_ignored(owner: str, report: MicrobatchDone) -> None:
    lead = leader()
    lead.start()
    assert lead.done(owner, report) == []
    assert lead.ignored_reports == 1
    assert not lead._ledger.work


def test_a_report_that_comes_twice_is_ignored() -> None:
    lead = leader(batch=9)
    lead.start()
    assert lead.done("o", done(0, ROUTES[0]))
    assert lead.done("o", done(0, ROUTES[1])) == []
    assert lead.ignored_reports == 1
    assert lead._ledger.work[0][1].route == ROUTES[0]


# --- OPEN to CLOSING -------------------------------------------------------------------------------------------------


def test_a_whole_batch_closes_the_step_with_the_ledgers_books() -> None:
    lead = leader()
    lead.start()
    orders = {peer: order for peer, order in sent(fill(lead), CloseStep) if isinstance(order, CloseStep)}
    assert lead.phase is Phase.CLOSING
    assert {peer: [lease.number for lease in order.counted] for peer, order in orders.items()} == {
        "a": [0, 2],
        "b": [1, 3],
        "c": [0, 1, 2, 3],
        "o": [0, 1],
        "p": [2, 3],
    }
    assert (orders["a"].members, orders["a"].tokens) == (("a", "b"), (16, 16))
    assert (orders["c"].members, orders["c"].tokens) == (("c",), (32,))
    assert (orders["p"].stage, orders["p"].members, orders["p"].tokens) == (2, ("o", "p"), (16, 16))
    assert {order.round for order in orders.values()} == {1}


def test_something_missing_reopens_and_replays() -> None:
    lead = leader()
    lead.start()
    fill(lead)
    missing = (Lease(1, 0), Lease(3, 0), Lease(77, 0))
    instructions = lead.closed("b", StepClosed(step=0, stage=0, round=1, missing=missing))
    assert lead.phase is Phase.OPEN
    assert {peer for peer, _ in sent(instructions, ReopenStep)} == {"a", "b", "c", "o", "p"}
    replays = {peer: order.work for peer, order in sent(instructions, ReplayWork) if isinstance(order, ReplayWork)}
    assert replays == {"o": (Work(0, Lease(1, 0), 0),), "p": (Work(0, Lease(3, 0), 0),)}
    assert not sent(instructions, PeersLost)
    assert lead.done("o", done(1, ("a", "c"))) == []  # the report that was taken back, once more
    lead.done("o", done(1, ("a", "c"), attempt=1))
    again = sent(lead.done("p", done(3, ("a", "c"), attempt=1)), CloseStep)
    assert {order.round for _, order in again if isinstance(order, CloseStep)} == {2}
    assert next(order.counted for peer, order in again if peer == "b" and isinstance(order, CloseStep)) == ()


def test_a_replica_that_misses_what_it_was_never_given_is_lost() -> None:
    lead = leader()
    lead.start()
    fill(lead)
    instructions = lead.closed("b", StepClosed(step=0, stage=0, round=1, missing=(Lease(77, 0),)))
    assert [instruction for instruction in instructions if isinstance(instruction, Lost)] == instructions
    assert [instruction.peer for instruction in instructions if isinstance(instruction, Lost)] == ["b"]
    assert sent(lead.peer_lost("b"), PeersLost)


def test_a_member_whose_values_are_not_finite_halts_the_run() -> None:
    lead = leader()
    lead.start()
    report = CannotContinue(step=0, stage=0, diverged=True, problem="a gradient is not finite")
    assert lead.cannot_continue("stranger", report) == []
    (halt,) = lead.cannot_continue("b", report)
    assert isinstance(halt, Halt)
    assert "lower the learning rate" in halt.problem


def test_a_member_that_cannot_follow_is_lost() -> None:
    lead = leader()
    lead.start()
    report = CannotContinue(step=0, stage=0, diverged=False, problem="it has no average to apply")
    assert lead.cannot_continue("b", report) == [Lost("b", report.problem)]


@pytest.mark.parametrize(
    ("peer", "report"),
    [
        ("a", StepClosed(step=0, stage=0, round=2, missing=())),
        ("a", StepClosed(step=1, stage=0, round=1, missing=())),
        ("a", StepClosed(step=0, stage=1, round=1, missing=())),
        ("stranger", StepClosed(step=0, stage=0, round=1, missing=())),
    ],
)
def test_a_closing_that_is_not_expected_is_ignored(peer: str, report: StepClosed) -> None:
    lead = leader()
    lead.start()
    fill(lead)
    assert lead.closed(peer, report) == []
    assert lead.ignored_reports == 1
    assert lead.phase is Phase.CLOSING


def test_everybody_closed_once_is_the_sign_to_reduce() -> None:
    lead = leader()
    lead.start()
    assert lead.closed("a", StepClosed(step=0, stage=0, round=0, missing=())) == []
    fill(lead)
    first = StepClosed(step=0, stage=0, round=1, missing=())
    assert lead.closed("a", first) == []
    assert lead.closed("a", first) == []
    assert lead.ignored_reports == 2
    instructions = close_all(lead)
    assert lead.phase is Phase.REDUCING
    assert sorted(peer for peer, _ in sent(instructions, GoRound)) == ["a", "b", "c", "o", "p"]


# --- REDUCING --------------------------------------------------------------------------------------------------------


def test_equal_hashes_commit_with_the_norm_of_the_whole_model() -> None:
    lead = reducing()
    instructions = reduce_all(lead)
    record = instructions[0]
    assert isinstance(record, Record)  # durable before anything is sent
    assert record.grad_norm == math.sqrt(12.0)
    assert (record.step, record.plan, record.round, record.tokens, record.loss_sum) == (0, 1, 1, 32, 8.0)
    assert record.digests == ("g0", "g1", "g2")
    assert [report.work.lease.number for _, report in record.work] == [0, 1, 2, 3]
    commits = [order for _, order in sent(instructions, CommitStep) if isinstance(order, CommitStep)]
    assert len(commits) == 5
    assert {(order.grad_norm, order.snapshot, order.round) for order in commits} == {(math.sqrt(12.0), False, 1)}
    assert granted(instructions)
    assert (lead.phase, lead.step, lead.round) == (Phase.OPEN, 1, 0)


def test_a_group_counts_once_in_the_norm() -> None:
    lead = reducing()
    for stage, peer in lead._members():
        instructions = lead.reduced(peer, reduced(lead, stage, square=[9.0, 16.0, 0.0][stage]))
    assert isinstance(instructions[0], Record)
    assert instructions[0].grad_norm == 5.0


@pytest.mark.parametrize(("digest", "square"), [("other", 4.0), ("", 4.5)])
def test_replicas_that_differ_hold_the_step(digest: str, square: float) -> None:
    lead = reducing()
    for stage, peer in lead._members():
        odd = peer == "b"
        report = reduced(lead, stage, digest if odd else "", square if odd else 4.0)
        instructions = lead.reduced(peer, report)
    assert lead.phase is Phase.HELD
    assert instructions[-1] == CheckPeers(("a", "b", "c", "o", "p"))
    assert len(sent(instructions, ReopenStep)) == 5
    assert not sent(instructions, CommitStep)


def test_digests_that_differ_again_and_again_halt_the_run() -> None:
    lead = reducing()
    for attempt in range(MAX_FAILED_ROUNDS):
        assert lead.phase is Phase.REDUCING, attempt
        for stage, peer in list(lead._members()):
            instructions = lead.reduced(peer, reduced(lead, stage, "other" if peer == "b" else ""))
        if attempt < MAX_FAILED_ROUNDS - 1:
            assert sent(lead.checked(), CloseStep)
            close_all(lead)
    assert lead.phase is Phase.HALTED
    (halt,) = instructions
    assert isinstance(halt, Halt)
    assert "different averages" in halt.problem


def test_a_round_that_failed_is_tried_again_after_the_check() -> None:
    lead = reducing()
    failed = RoundFailed(step=0, stage=0, round=1, problem="a hole")
    instructions = lead.failed("a", failed)
    assert lead.phase is Phase.HELD
    assert isinstance(instructions[-1], CheckPeers)
    assert lead.failed("b", failed) == []  # the same round's failure, once more
    again = sent(lead.checked(), CloseStep)
    assert {order.round for _, order in again if isinstance(order, CloseStep)} == {2}
    assert lead.checked() == []
    close_all(lead)
    assert isinstance(reduce_all(lead)[0], Record)


def test_failures_are_counted_a_step() -> None:
    lead = reducing()
    for _ in range(MAX_FAILED_ROUNDS - 1):
        lead.failed("a", RoundFailed(step=0, stage=0, round=lead.round, problem="hole"))
        lead.checked()
        close_all(lead)
    reduce_all(lead)
    fill(lead, step=1)
    close_all(lead)
    lead.failed("a", RoundFailed(step=1, stage=0, round=1, problem="hole"))
    assert lead.phase is Phase.HELD


def test_whoever_rounds_break_on_again_is_lost_though_it_lives() -> None:
    """Two that cannot reach each other blame each other: one of them goes, and the run goes on."""
    lead = reducing()
    members = lead.plan.groups[0]
    first, second = members[0], members[1]
    about = {"step": 0, "stage": 0}
    lead.failed(first, RoundFailed(**about, round=lead.round, problem="silent", blamed=second))
    lead.failed(second, RoundFailed(**about, round=lead.round, problem="silent", blamed=first))
    lead.failed("stranger", RoundFailed(**about, round=lead.round, problem="silent", blamed=first))
    assert lead.phase is Phase.HELD
    assert sent(lead.checked(), CloseStep)
    close_all(lead)
    (lost,) = lead.failed(first, RoundFailed(**about, round=lead.round, problem="silent", blamed=second))
    assert isinstance(lost, Lost)
    assert lost.peer == second
    lead.peer_lost(second)
    assert lead.phase is Phase.OPEN


def test_failed_and_reduced_of_another_round_or_member_are_ignored() -> None:
    lead = reducing()
    for peer, stage, step, number in (("a", 0, 0, 2), ("a", 0, 1, 1), ("a", 1, 0, 1), ("stranger", 0, 0, 1)):
        assert lead.failed(peer, RoundFailed(step=step, stage=stage, round=number, problem="")) == []
        report = RoundReduced(step=step, stage=stage, round=number, digest="x", square_norm=1.0)
        assert lead.reduced(peer, report) == []
    assert lead.ignored_reports == 8
    assert lead.phase is Phase.REDUCING


@pytest.mark.parametrize("square", [math.nan, math.inf, 1.7e308, -1.0])
def test_a_gradient_that_is_not_finite_is_never_committed(square: float) -> None:
    lead = reducing()
    for stage, peer in list(lead._members()):
        instructions = lead.reduced(peer, reduced(lead, stage, square=square))
    assert not any(isinstance(instruction, Record) for instruction in instructions)
    assert not sent(instructions, CommitStep)


# --- after the commit ------------------------------------------------------------------------------------------------


def apply_all(lead: StepLeader, step: int) -> list[Instruction]:
    instructions: list[Instruction] = []
    for stage, peer in list(lead._members()):
        instructions += lead.applied(peer, StepApplied(step=step, stage=stage, digest=f"w{stage}"))
    return instructions


def test_a_step_is_applied_when_everybody_says_so() -> None:
    lead = reducing()
    reduce_all(lead)
    assert apply_all(lead, 0) == [Applied(1, ("w0", "w1", "w2"), lead.plan, checkpoint=False)]
    assert apply_all(lead, 0) == []
    assert lead.ignored_reports == 5


def test_snapshots_are_kept_at_intervals_and_at_the_end() -> None:
    lead = leader(steps=3)
    lead.start()
    snapshots = []
    for step in range(3):
        fill(lead, step)
        close_all(lead)
        commits = sent(reduce_all(lead), CommitStep)
        snapshots.append({order.snapshot for _, order in commits if isinstance(order, CommitStep)})
    assert snapshots == [{False}, {True}, {True}]


def test_the_last_step_finishes_when_it_is_applied() -> None:
    lead = leader(steps=1)
    lead.start()
    fill(lead)
    close_all(lead)
    assert not granted(reduce_all(lead))
    assert lead.phase is Phase.FINISHED
    assert apply_all(lead, 0) == [Applied(1, ("w0", "w1", "w2"), lead.plan, checkpoint=True), Finish()]


def test_different_weights_halt_the_run() -> None:
    lead = reducing()
    reduce_all(lead)
    lead.applied("a", StepApplied(step=0, stage=0, digest="w"))
    (halt,) = lead.applied("b", StepApplied(step=0, stage=0, digest="x"))
    assert isinstance(halt, Halt)
    assert (halt.stage, lead.phase) == (0, Phase.HALTED)
    assert lead.peer_lost("a") == []


# --- losses ----------------------------------------------------------------------------------------------------------


def test_a_lost_owners_numbers_go_to_the_others_under_a_new_lease() -> None:
    lead = leader()
    lead.start()
    lead.done("o", done(0, ROUTES[0]))
    instructions = lead.peer_lost("o")
    assert sent(instructions, PeersLost) == [("p", PeersLost(term=7, peers=("o",)))]
    assert granted(instructions) == {"p": [Lease(0, 1), Lease(1, 1)]}
    assert lead.done("o", done(1, ROUTES[0])) == []  # a last word from the grave
    assert lead.done("p", done(0, ROUTES[0])) == []  # the old lease
    for number, lease in ((0, 1), (1, 1), (2, 0), (3, 0)):
        instructions = lead.done("p", done(number, ROUTES[0], lease=lease))
    assert {peer for peer, _ in sent(instructions, CloseStep)} == {"a", "b", "c", "p"}


def test_a_lost_hosts_share_is_replayed_and_the_next_plan_is_without_it() -> None:
    lead = leader()
    lead.start()
    lead.done("o", done(0, ROUTES[0]))
    lead.done("o", done(1, ROUTES[1]))
    instructions = lead.peer_lost("b")
    assert [peer for peer, _ in sent(instructions, PeersLost)] == ["o", "p"]
    ((peer, replay),) = sent(instructions, ReplayWork)
    assert (peer, replay) == ("o", ReplayWork(term=7, step=0, work=(Work(0, Lease(1, 0), 0),), lost=("b",)))
    # A report of an attempt through the lost host may still be under way.
    assert sent(lead.done("p", done(2, ROUTES[1])), ReplayWork) == [
        ("p", ReplayWork(term=7, step=0, work=(Work(0, Lease(2, 0), 0),), lost=("b",)))
    ]
    for owner, number, attempt in (("o", 1, 1), ("p", 2, 1), ("p", 3, 0)):
        instructions = lead.done(owner, done(number, ROUTES[0], attempt=attempt))
    assert {peer for peer, _ in sent(instructions, CloseStep)} == {"a", "c", "o", "p"}
    close_all(lead)
    instructions = reduce_all(lead)
    (new,) = [instruction.plan for instruction in instructions if isinstance(instruction, NewPlan)]
    assert (new.number, new.first_step) == (2, 1)
    assert new.groups == (("a",), ("c",), ("o", "p"))
    kinds = [type(instruction) for instruction in instructions]
    assert kinds.index(NewPlan) < max(i for i, kind in enumerate(kinds) if kind is Send)
    assert {order.plan for _, order in sent(instructions, GrantLeases) if isinstance(order, GrantLeases)} == {2}


@pytest.mark.parametrize("phase", [Phase.CLOSING, Phase.REDUCING, Phase.HELD])
def test_a_loss_reopens_a_step_that_was_closing(phase: Phase) -> None:
    lead = leader()
    lead.start()
    fill(lead)
    if phase is not Phase.CLOSING:
        close_all(lead)
    if phase is Phase.HELD:
        lead.failed("a", RoundFailed(step=0, stage=0, round=1, problem="hole"))
    assert lead.phase is phase
    instructions = lead.peer_lost("b")
    assert {peer for peer, _ in sent(instructions, ReopenStep)} == {"a", "c", "o", "p"}
    replays = {peer: order.work for peer, order in sent(instructions, ReplayWork) if isinstance(order, ReplayWork)}
    assert replays == {"o": (Work(0, Lease(1, 0), 0),), "p": (Work(0, Lease(3, 0), 0),)}
    assert lead.phase is Phase.OPEN
    assert lead.checked() == []
    lead.done("o", done(1, ROUTES[0], attempt=1))
    lead.done("p", done(3, ROUTES[0], attempt=1))
    close_all(lead)
    assert isinstance(reduce_all(lead)[0], Record)


def test_a_loss_of_who_counted_nothing_closes_at_once_again() -> None:
    lead = leader()
    lead.start()
    for number, (owner, _) in enumerate(_owners_of(lead)):
        lead.done(owner, done(number, ROUTES[0]))
    assert lead.phase is Phase.CLOSING
    instructions = lead.peer_lost("b")
    assert {order.round for _, order in sent(instructions, CloseStep) if isinstance(order, CloseStep)} == {2}
    assert {peer for peer, _ in sent(instructions, CloseStep)} == {"a", "c", "o", "p"}


@pytest.mark.parametrize(("lost", "stage"), [(("c",), 1), (("a", "b"), 0), (("o", "p"), 2)])
def test_a_group_without_a_member_halts_the_run(lost: tuple[str, ...], stage: int) -> None:
    lead = leader()
    lead.start()
    for peer in lost:
        instructions = lead.peer_lost(peer)
    assert instructions == [Regroup("the last replica is gone", stage)]
    assert lead.phase is Phase.HALTED
    assert lead.done("o", done(0, ROUTES[0])) == []


def test_a_loss_is_told_once_and_strangers_are_nobodys_loss() -> None:
    lead = leader()
    lead.start()
    assert lead.peer_lost("stranger") == []
    assert lead.peer_lost("b")
    assert lead.peer_lost("b") == []


def test_who_is_lost_after_the_commit_is_not_waited_for() -> None:
    lead = leader(steps=1)
    lead.start()
    fill(lead)
    close_all(lead)
    reduce_all(lead)
    for stage, peer in lead._members():
        if peer != "b":
            assert lead.applied(peer, StepApplied(step=0, stage=stage, digest=f"w{stage}")) == []
    assert lead.peer_lost("b") == [Applied(1, ("w0", "w1", "w2"), lead.plan, checkpoint=True), Finish()]
