"""A run's folder is read while its scheduler writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler import verbs
from scheduler.audit_log import AuditLog
from scheduler.dashboard.folder import RunFolder
from scheduler.event_log import EventLog
from scheduler.new_run import create
from scheduler.run_dir import RunDir
from scheduler.status import Status
from swarm.errors import ConfigError
from tests.support.plans import plan
from tests.support.runs import capabilities, heartbeat
from tests.unit.scheduler.test_audit_log import record


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    create(tmp_path / "run", "watched", None, None)
    return RunDir(tmp_path / "run")


def opened_log(run_dir: RunDir) -> AuditLog:
    config = run_dir.load_config()
    return AuditLog(run_dir.audit, config.fingerprint, config.to_json())


def test_a_run_grows_under_the_readers_eyes(run_dir: RunDir) -> None:
    reader = RunFolder(run_dir)
    assert (reader.look().phase, reader.look().step) == ("not started", 0)
    log, events = opened_log(run_dir), EventLog(run_dir.events)
    for step in range(3):
        log.append_step(record(step), term=1, now_s=100.0 + step)
        events.append({"event": "step", "step": step + 1, "phase_s": {"open": 1.0}})
    found = reader.look()
    assert (found.run, found.step, found.tokens, found.loss) == ("watched", 3, 48, 3.0 / 16)
    assert {peer.peer: peer.done.hosted for peer in found.peers} == {"a": 6, "b": 6, "o0": 0, "o1": 0}
    log.append_step(record(3), term=1, now_s=103.0)
    events.append({"event": "lost", "peer": "a", "problem": "silent", "step": 3})
    status = Status(run_dir.status, run_dir.load_config())
    status.plan = plan(["a"], ["b"], owners=("o0", "o1"))
    for peer in ("a", "b"):
        status.on_registered(peer, capabilities())
    status.on_heartbeat("b", heartbeat(5, "activations"))
    status.on_state("a", "lost")
    status.save()
    found = reader.look()
    assert (found.step, found.counts["step"], found.counts["lost"], found.plan) == (4, 3, 1, 1)
    assert {peer.peer: peer.condition for peer in found.peers if peer.peer in "ab"} == {"a": "lost", "b": "waits"}
    assert {peer.peer: peer.done.hosted for peer in found.peers}["a"] == 8
    log.close()
    events.close()
    assert RunFolder(run_dir).look().step == 4, "a run that is over is read as well"


def test_a_run_that_goes_on_from_an_earlier_step_is_counted_anew(run_dir: RunDir) -> None:
    log, reader = opened_log(run_dir), RunFolder(run_dir)
    log.begin_term(0.0)
    for step in range(4):
        log.append_step(record(step), term=1, now_s=100.0 + step)
    assert reader.look().step == 4
    log.rewind(2)
    for step in range(2, 6):
        log.append_step(record(step), term=2, now_s=200.0 + step)
    found = reader.look()
    assert (found.step, found.tokens) == (6, 96)
    assert {peer.done.hosted for peer in found.peers} == {12, 0}
    log.close()


def test_half_a_line_and_a_damaged_status_wait_for_the_next_look(run_dir: RunDir) -> None:
    reader = RunFolder(run_dir)
    text = json.dumps({"event": "leading", "term": 1, "time_s": 1.0}).encode() + b"\n"
    run_dir.events.write_bytes(text + text[:10])
    run_dir.status.write_bytes(b'{"phase": ')
    assert reader.look().counts == {"leading": 1}
    run_dir.events.write_bytes(text + text)
    assert reader.look().counts == {"leading": 2}


def test_a_long_event_log_begins_anew_and_nothing_is_missed(run_dir: RunDir) -> None:
    events, early = EventLog(run_dir.events, most_bytes=300), RunFolder(run_dir)
    for number in range(20):
        events.append({"event": "warning", "problem": f"number {number}"})
        assert early.look().counts["warning"] == number + 1
    late = RunFolder(run_dir).look()
    events.close()
    assert sum(path.stat().st_size for path in run_dir.root.glob("events*.jsonl")) < 2 * 400
    assert late.events[0].text == "warning: number 19"
    assert 1 < late.counts["warning"] < 20, "two files are kept"


def test_what_is_of_this_moment_only_is_not_kept(run_dir: RunDir) -> None:
    events = EventLog(run_dir.events)
    events.append({"event": "progress"})
    assert not run_dir.events.exists()


def test_a_disk_that_refuses_costs_events_only(tmp_path: Path) -> None:
    EventLog(tmp_path / "missing" / "events.jsonl").append({"event": "leading", "term": 1})


def test_no_run_no_view(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="swarm init"):
        RunFolder(RunDir(tmp_path))


def test_swarm_status_tells_what_the_pages_tell(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    status = Status(run_dir.status, run_dir.load_config())
    status.plan = plan(["a"])
    status.on_registered("a", capabilities())
    status.save()
    verbs.status(run_dir.root, json=True)
    found = json.loads(capsys.readouterr().out)
    assert [lane["key"] for lane in found["lanes"]] == ["owners", "stage-0"]
    assert [alert["kind"] for alert in found["alerts"]] == ["one_replica"]
    verbs.status(run_dir.root, json=False)
    assert "has one replica" in capsys.readouterr().out
