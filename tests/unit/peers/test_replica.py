"""A replica's books and life cycle: each transition of its state table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peers.replica import Closing, Replica, State, Verdict
from swarm.wire.messages import CloseStep, CommitStep, GoRound, Lease, ReopenStep, Work

A, B, C = Lease(0, 0), Lease(1, 0), Lease(2, 0)


def close(*counted: Lease, round_number: int = 1, step: int = 5, term: int = 1) -> CloseStep:
    return CloseStep(
        term=term,
        plan=1,
        step=step,
        stage=0,
        round=round_number,
        counted=tuple(sorted(counted)),
        members=("me",),
        tokens=(len(counted),),
        fractions=(1.0,),
        record=b"",
    )


def go(round_number: int = 1, step: int = 5, term: int = 1) -> GoRound:
    return GoRound(term=term, step=step, stage=0, round=round_number)


def reopen(round_number: int = 1, step: int = 5, term: int = 1) -> ReopenStep:
    return ReopenStep(term=term, step=step, stage=0, round=round_number)


def commit(round_number: int = 1, step: int = 5, term: int = 1) -> CommitStep:
    return CommitStep(
        term=term, plan=1, step=step, stage=0, round=round_number, grad_norm=1.0, snapshot=False, averages_after=-1
    )


def replica(*counted: Lease) -> Replica:
    """An open replica of step 5 that has counted these."""
    found = Replica(0, 1, 5)
    for lease in counted:
        assert found.forward(1, Work(5, lease, 0)) is Verdict.COMPUTE
        assert found.backward(1, Work(5, lease, 0)) is Verdict.COUNT
    return found


def closed() -> Replica:
    found = replica(A)
    assert found.close(close(A)) == Closing((), ())
    return found


def reducing() -> Replica:
    found = closed()
    assert found.go(go())
    return found


def reduced() -> Replica:
    found = reducing()
    assert found.reduced(1)
    return found


# --- OPEN: frames ----------------------------------------------------------------------------------------------------


def test_a_microbatch_is_counted_once() -> None:
    books = replica(A)
    assert books.is_counted(A)
    assert books.forward(1, Work(5, A, 1)) is Verdict.COMPUTE
    assert books.backward(1, Work(5, A, 1)) is Verdict.ANSWER
    assert books.state is State.OPEN


def test_only_a_later_attempt_is_computed_again() -> None:
    books = Replica(0, 1, 5)
    assert books.forward(1, Work(5, A, 1)) is Verdict.COMPUTE
    assert books.forward(1, Work(5, A, 1)) is Verdict.REFUSE
    assert books.forward(1, Work(5, A, 0)) is Verdict.REFUSE
    assert books.backward(1, Work(5, A, 0)) is Verdict.REFUSE
    assert books.backward(1, Work(5, A, 1)) is Verdict.COUNT
    assert books.refused == 3


def test_a_gradient_without_its_forward_is_refused() -> None:
    books = Replica(0, 1, 5)
    assert books.backward(1, Work(5, A, 0)) is Verdict.REFUSE
    assert not books.is_counted(A)


def test_two_leases_of_one_number_are_two_entries() -> None:
    books = replica(A)
    again = Lease(A.number, A.lease + 1)
    assert books.forward(1, Work(5, again, 0)) is Verdict.COMPUTE
    assert books.backward(1, Work(5, again, 0)) is Verdict.COUNT
    assert books.close(close(again)) == Closing(retract=(A,), missing=())


@pytest.mark.parametrize(
    ("plan", "step", "verdict"),
    [(1, 6, Verdict.WAIT), (2, 5, Verdict.WAIT), (2, 4, Verdict.WAIT), (1, 4, Verdict.REFUSE), (0, 5, Verdict.REFUSE)],
)
def test_early_frames_wait_and_late_ones_are_refused(plan: int, step: int, verdict: Verdict) -> None:
    books = Replica(0, 1, 5)
    assert books.forward(plan, Work(step, A, 0)) is verdict
    assert books.backward(plan, Work(step, A, 0)) is verdict
    assert books.is_early(plan, Work(step, A, 0)) is (verdict is Verdict.WAIT)


@pytest.mark.parametrize("make", [closed, reducing, reduced])
def test_frames_wait_while_the_step_is_not_open(make: object) -> None:
    assert callable(make)
    books = make()
    assert books.forward(1, Work(5, B, 0)) is Verdict.WAIT
    assert books.backward(1, Work(5, A, 0)) is Verdict.WAIT
    assert books.forward(1, Work(6, B, 0)) is Verdict.WAIT
    assert books.forward(1, Work(4, B, 0)) is Verdict.REFUSE


def test_a_replay_that_overtakes_the_order_to_open_is_computed_after_it() -> None:
    books = reduced()
    replay = Work(5, A, 1)
    assert books.is_early(1, replay)
    assert books.reopen(ReopenStep(term=1, step=5, stage=0, round=1))
    assert not books.is_early(1, replay)
    assert books.forward(1, replay) is Verdict.COMPUTE


def test_a_reset_counts_from_zero() -> None:
    books = closed()
    books.reset(5)
    assert books.state is State.OPEN
    assert not books.is_counted(A)
    assert books.forward(1, Work(5, A, 0)) is Verdict.COMPUTE


# --- staleness 1 -----------------------------------------------------------------------------------------------------


def ahead() -> Replica:
    """Closed in step 5, with A of step 6 counted meanwhile."""
    books = Replica(0, 1, 5, staleness=1)
    assert books.close(close()) == Closing((), ())
    assert books.forward(1, Work(6, A, 0)) is Verdict.COMPUTE
    assert books.backward(1, Work(6, A, 0)) is Verdict.COUNT
    return books


def test_the_next_step_is_counted_in_every_state() -> None:
    books = ahead()
    assert books.state is State.CLOSED
    assert not books.is_counted(A), "that is of the next step"
    assert books.forward(1, Work(5, B, 0)) is Verdict.WAIT
    assert books.forward(1, Work(7, B, 0)) is Verdict.WAIT


def test_what_ran_ahead_is_in_the_books_after_the_commit() -> None:
    books = ahead()
    assert books.go(go())
    assert books.reduced(1)
    assert books.commit(commit())
    assert books.is_counted(A)
    assert books.backward(1, Work(6, A, 0)) is Verdict.REFUSE
    assert books.forward(1, Work(7, A, 0)) is Verdict.COMPUTE, "books of its own"


def test_each_step_is_reset_by_itself() -> None:
    books = ahead()
    books.reset(6)
    assert books.state is State.CLOSED
    assert books.forward(1, Work(6, A, 0)) is Verdict.COMPUTE
    books.reset(4)
    assert books.state is State.CLOSED
    books.reset(5)
    assert books.state is State.OPEN


# --- CloseStep -------------------------------------------------------------------------------------------------------


def test_books_that_agree_close() -> None:
    books = replica(A, B)
    assert books.close(close(A, B)) == Closing((), ())
    assert books.state is State.CLOSED


def test_what_the_ledger_gave_to_others_is_retracted() -> None:
    books = replica(A, B)
    assert books.close(close(A)) == Closing(retract=(B,), missing=())
    assert books.state is State.CLOSED
    assert not books.is_counted(B)


def test_what_is_missing_keeps_the_step_open() -> None:
    books = replica(A, B)
    assert books.close(close(A, C)) == Closing(retract=(B,), missing=(C,))
    assert books.state is State.OPEN
    assert books.forward(1, Work(5, C, 0)) is Verdict.COMPUTE
    assert books.backward(1, Work(5, C, 0)) is Verdict.COUNT
    assert books.close(close(A, C, round_number=2)) == Closing((), ())


def test_an_order_that_came_before_changes_nothing() -> None:
    books = closed()
    assert books.close(close(A)) is None
    assert books.close(close(B, round_number=0)) is None
    assert books.close(close(A, step=4, round_number=9)) is None
    assert books.close(close(A, step=6, round_number=9)) is None
    assert books.state is State.CLOSED


@pytest.mark.parametrize("make", [closed, reducing, reduced])
def test_a_newer_round_replaces_the_one_that_is_prepared(make: object) -> None:
    assert callable(make)
    books = make()
    assert books.close(close(A, round_number=2)) == Closing((), ())
    assert (books.state, books.round) == (State.CLOSED, 2)
    assert not books.go(go(1))
    assert books.go(go(2))


# --- GoRound, the average --------------------------------------------------------------------------------------------


def test_a_round_is_reduced_once() -> None:
    books = closed()
    assert not books.go(go(2))
    assert not books.go(go(step=6))
    assert books.go(go())
    assert not books.go(go())
    assert books.state is State.REDUCING


def test_an_open_replica_does_not_reduce() -> None:
    books = replica(A)
    assert not books.go(go(0))
    assert not books.go(go(1))


def test_only_the_wanted_average_is_taken() -> None:
    assert not closed().reduced(1)
    books = reducing()
    assert not books.reduced(2)
    assert books.reduced(1)
    assert not books.reduced(1)
    assert books.state is State.REDUCED


# --- ReopenStep ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [closed, reducing, reduced])
def test_a_round_that_is_off_is_dropped_and_the_books_stay(make: object) -> None:
    assert callable(make)
    books = make()
    assert books.reopen(reopen())
    assert books.state is State.OPEN
    assert books.is_counted(A)
    assert not books.reopen(reopen())
    assert not books.reduced(1)
    assert not books.commit(commit())
    assert books.forward(1, Work(5, A, 1)) is Verdict.COMPUTE
    assert books.backward(1, Work(5, A, 1)) is Verdict.ANSWER


def test_a_reopening_of_an_older_round_or_step_changes_nothing() -> None:
    books = reduced()
    assert not books.reopen(reopen(0))
    assert not books.reopen(reopen(step=4))
    assert books.state is State.REDUCED


# --- CommitStep ------------------------------------------------------------------------------------------------------


def test_a_commit_opens_the_next_step_with_empty_books() -> None:
    books = reduced()
    assert books.commit(commit())
    assert (books.state, books.step, books.round) == (State.OPEN, 6, 0)
    assert not books.is_counted(A)
    assert not books.commit(commit())
    assert books.forward(1, Work(6, A, 0)) is Verdict.COMPUTE
    assert books.forward(1, Work(5, A, 2)) is Verdict.REFUSE
    assert books.close(close(step=6)) == Closing((), ())


@pytest.mark.parametrize("make", [closed, reducing])
def test_nothing_is_applied_without_the_average(make: object) -> None:
    assert callable(make)
    books = make()
    assert not books.commit(commit())
    assert books.step == 5


def test_only_the_reduced_round_is_applied() -> None:
    books = reduced()
    assert not books.commit(commit(2))
    assert not books.commit(commit(0))
    assert not books.commit(commit(step=4))
    assert books.state is State.REDUCED


# --- terms and plans -------------------------------------------------------------------------------------------------


def test_a_leader_of_an_older_term_is_not_obeyed() -> None:
    books = replica(A)
    assert books.obey(3)
    assert books.close(close(A)) is None
    assert books.close(close(A, term=3)) is not None
    assert not books.go(go(term=2))
    assert books.go(go(term=3))
    assert books.reduced(1)
    assert not books.reopen(reopen(term=2))
    assert not books.commit(commit(term=1))
    assert books.commit(commit(term=4))
    assert books.term == 4


def test_a_newer_plan_holds_and_an_older_one_never() -> None:
    books = Replica(0, 1, 5)
    books.adopt(3, 0)
    books.adopt(2, 0)
    assert books.plan == 3
    assert books.forward(3, Work(5, A, 0)) is Verdict.COMPUTE
    assert books.forward(1, Work(5, B, 0)) is Verdict.REFUSE


def test_orders_are_values() -> None:
    assert replace(close(A), round=2) == close(A, round_number=2)
