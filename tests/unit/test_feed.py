"""What a watcher believes of what comes over the network."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from swarm.admission import Certificate, Membership, seal
from swarm.identity import Identity
from swarm.monitor.display import as_json, line, panel
from swarm.monitor.feed import LATE_S, Feed
from swarm.wire.messages import MetricsAnnounced, PlanAnnounced, RunAnnounced, StageAnnounced
from tests.support.runs import Run, heartbeat

NOW_S = 1_000_000.0


class Scheduler:
    """Of a run, with the admin's certificate."""

    def __init__(
        self, run: Run, *, admin: Identity | None = None, roles: tuple[str, ...] = ("scheduler",), now_s: float = NOW_S
    ) -> None:
        self.key = Identity.generate()
        body = Certificate(
            fingerprint=run.config.fingerprint, peer_id=self.key.peer_id, roles=roles, expires_at_s=now_s + 1000
        )
        self.certificate = seal(admin or run.admin, body)

    def metrics(self, sent_at_s: float, step: int = 3, term: int = 1) -> bytes:
        body = MetricsAnnounced(
            certificate=self.certificate,
            term=term,
            sent_at_s=sent_at_s,
            run="test",
            phase="open",
            step=step,
            steps=10,
            tokens=300,
            loss=(2.5,),
            tokens_per_s=100.0,
            eta_s=7.0,
            step_age_s=0.5,
            plan=2,
            num_hosts=1,
            num_owners=1,
            waiting_for=(),
            alerts=(),
        )
        return seal(self.key, body)

    def plan(self, sent_at_s: float) -> bytes:
        body = PlanAnnounced(
            certificate=self.certificate,
            term=1,
            sent_at_s=sent_at_s,
            number=2,
            stages=(StageAnnounced(first_layer=1, last_layer=3, hosts=("a",)),),
            owners=("b",),
            predicted_tokens_per_s=90.0,
            bound_tokens_per_s=100.0,
            gap=0.1,
        )
        return seal(self.key, body)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def feed(run: Run) -> Feed:
    return Feed(Membership(run.config.fingerprint, run.config.admin_public_key))


def test_what_a_scheduler_says_is_taken(run: Run, feed: Feed) -> None:
    scheduler = Scheduler(run)
    assert feed.take(scheduler.plan(NOW_S), NOW_S + 1) == "taken"
    assert feed.take(scheduler.metrics(NOW_S), NOW_S + 1) == "taken"
    assert feed.heard_at_s == NOW_S + 1
    assert "step 3/10  loss 2.5000" in line(feed)
    assert "plan 2: 1 stages" in line(feed)
    assert feed.metrics is not None
    shown = as_json(feed.metrics)
    assert (shown["event"], shown["loss"]) == ("metrics", 2.5)
    assert "certificate" not in shown


def test_forgeries_are_ignored_and_counted(run: Run, feed: Feed) -> None:
    genuine = Scheduler(run)
    impostor = Scheduler(run)
    impostor.certificate = genuine.certificate
    forgeries = [
        b"",
        b"\x93\x01",
        Scheduler(run, admin=Identity.generate()).metrics(NOW_S),
        Scheduler(run, roles=("host", "owner")).metrics(NOW_S),
        Scheduler(Run()).metrics(NOW_S),
        impostor.metrics(NOW_S),
        genuine.metrics(NOW_S)[:-1] + bytes([genuine.metrics(NOW_S)[-1] ^ 1]),
        seal(genuine.key, heartbeat()),
        seal(genuine.key, RunAnnounced(certificate=genuine.certificate, sent_at_s=NOW_S, bootstrap=(), monitor=())),
    ]
    assert {feed.take(each, NOW_S) for each in forgeries} == {"forged"}
    assert feed.counts == {"forged": len(forgeries)}
    assert feed.metrics is None
    assert line(feed) == ""


def test_the_past_is_not_shown_again(run: Run, feed: Feed) -> None:
    scheduler = Scheduler(run)
    first, second = scheduler.metrics(NOW_S, step=3), scheduler.metrics(NOW_S + 1, step=4)
    assert feed.take(second, NOW_S + 1) == "taken"
    assert [feed.take(each, NOW_S + 2) for each in (first, second)] == ["repeated", "repeated"]
    assert feed.metrics is not None
    assert feed.metrics.step == 4


@pytest.mark.parametrize("off_s", [-LATE_S - 1, LATE_S + 1, float("nan"), float("inf")])
def test_a_recording_is_of_no_use_to_a_new_watcher(run: Run, feed: Feed, off_s: float) -> None:
    assert feed.take(Scheduler(run).metrics(NOW_S + off_s), NOW_S) == "late"
    assert feed.metrics is None


def test_a_leader_that_was_replaced_is_not_heard(run: Run, feed: Feed) -> None:
    old, new = Scheduler(run), Scheduler(run)
    assert feed.take(old.metrics(NOW_S, term=1), NOW_S) == "taken"
    assert feed.take(new.metrics(NOW_S - 5, step=2, term=2), NOW_S) == "taken", "clocks differ a little"
    assert feed.take(old.metrics(NOW_S + 1, term=1), NOW_S + 1) == "repeated"
    assert feed.metrics == replace(feed.metrics, term=2, step=2)  # type: ignore[type-var]


def test_the_picture_says_what_is_announced_and_what_is_not(run: Run, feed: Feed) -> None:
    def shown(problem: str, now_s: float) -> str:
        console = Console(width=120, file=io.StringIO(), record=True)
        console.print(panel(feed, problem, now_s))
        return console.export_text()

    assert "nobody answers" in shown("nobody answers", NOW_S)
    scheduler = Scheduler(run)
    for data in (scheduler.plan(NOW_S), scheduler.metrics(NOW_S), b"forged"):
        feed.take(data, NOW_S)
    picture = shown("", NOW_S + 1)
    for words in ("run test", "3 of 10", "2.5000", "300 tokens so far", "gap 10.0%", "1 forged"):
        assert words in picture
    assert "nothing heard for 40 s" in shown("", NOW_S + 40)
