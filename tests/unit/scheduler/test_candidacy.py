"""Who wins an election, and who must not."""

from __future__ import annotations

import pytest

from scheduler.candidacy import Candidacy, Outcome, is_majority
from swarm.wire.messages import Denied, Granted

VOTERS = frozenset("abcde")


def denied(term: int = 1, *, leader_lives: bool = False) -> Denied:
    return Denied(term=term, leader="old", leader_lives=leader_lives, plan=b"")


def votes(candidacy: Candidacy, peers: str, *, run_is_paused: bool = False) -> None:
    for peer in peers:
        candidacy.granted(peer, Granted(term=candidacy.term, holdings=(), run_is_paused=run_is_paused))


@pytest.mark.parametrize(("granted", "won"), [("ab", False), ("abc", True), ("xyzab", False), ("abcde", True)])
def test_more_than_half_of_the_voters_win(granted: str, won: bool) -> None:
    candidacy = Candidacy(3, 7, VOTERS)
    votes(candidacy, granted)
    assert (candidacy.outcome is Outcome.WON) == won


def test_it_is_lost_as_soon_as_it_cannot_be_won() -> None:
    candidacy = Candidacy(3, 7, VOTERS)
    votes(candidacy, "ab")
    candidacy.denied("c", denied(), 0)
    candidacy.silent("d")
    assert candidacy.outcome is Outcome.OPEN
    candidacy.silent("e")
    assert candidacy.outcome is Outcome.LOST
    votes(candidacy, "e")  # late, but not too late
    assert candidacy.outcome is Outcome.WON


@pytest.mark.parametrize(("term", "plan"), [(3, 0), (4, 0), (1, 8)])
def test_newer_terms_and_plans_come_before_any_majority(term: int, plan: int) -> None:
    candidacy = Candidacy(3, 7, VOTERS)
    candidacy.denied("e", denied(term), plan)
    votes(candidacy, "abcd")
    assert candidacy.outcome is Outcome.STALE
    assert candidacy.newest_term == term


def test_only_who_learned_a_plan_claims_at_once() -> None:
    """Candidates that failed for one another wait, and so does who hears of a leader that answers."""
    learned = Candidacy(3, 7, VOTERS)
    assert not learned.may_claim_at_once
    learned.denied("e", denied(), 8)
    assert learned.may_claim_at_once
    learned.denied("d", denied(3), 8)
    assert not learned.may_claim_at_once
    led = Candidacy(3, 7, VOTERS)
    led.denied("e", denied(leader_lives=True), 8)
    assert not led.may_claim_at_once


def test_nobody_wins_without_knowing_who_votes() -> None:
    """A scheduler that had heard of no plan yet led restarted peers from an old checkpoint, and 53 steps were lost."""
    candidacy = Candidacy(3, 7, frozenset())
    votes(candidacy, "abc")
    assert candidacy.outcome is Outcome.LOST


def test_a_scheduler_without_rivals_needs_no_votes() -> None:
    assert Candidacy(1, 0, None).outcome is Outcome.WON


def test_a_grant_of_another_term_does_not_count() -> None:
    candidacy = Candidacy(3, 7, frozenset("a"))
    candidacy.granted("a", Granted(term=2, holdings=(), run_is_paused=True))
    assert candidacy.outcome is Outcome.OPEN


def test_a_leader_that_lives_is_remembered() -> None:
    candidacy = Candidacy(3, 7, VOTERS)
    candidacy.denied("a", denied(leader_lives=True), 0)
    assert candidacy.living_leader == ("old", 1)


@pytest.mark.parametrize("size", range(1, 9))
def test_two_majorities_always_meet(size: int) -> None:
    voters = frozenset(map(str, range(size)))
    half = frozenset(list(voters)[: size // 2])
    assert not (is_majority(half, voters) and is_majority(voters - half, voters))
    assert is_majority(voters, voters)


def test_a_run_is_paused_where_most_of_those_who_obey_were_told_so() -> None:
    candidacy = Candidacy(3, 7, VOTERS)
    assert not candidacy.run_is_paused
    votes(candidacy, "ab", run_is_paused=True)
    assert candidacy.run_is_paused
    votes(candidacy, "cd")
    assert not candidacy.run_is_paused, "somebody who was away may not know that it goes on"
