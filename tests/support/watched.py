"""A run as its folder would tell it, for tests of what people see."""

from __future__ import annotations

from typing import Any

from scheduler.dashboard.books import EventBook, LedgerBook
from scheduler.dashboard.view import View, view
from swarm.run_files import StepRow

NOW_S = 1000.0
STEPS = 100


def peer_facts(*roles: str, **changed: Any) -> dict[str, Any]:
    """As the status file has them."""
    ordinary: dict[str, Any] = {
        "roles": list(roles) or ["host"],
        "memory_bytes": 1 << 30,
        "layer_seconds": 0.5,
        "observed_layer_seconds": 0.5,
        "ends_seconds": 0.1 if "owner" in roles else 0.0,
        "up_bytes_per_s": 1e6,
        "down_bytes_per_s": 1e6,
        "links": [],
        "state": "here",
        "waiting_for": "",
        "computed_tokens": 0,
    }
    return ordinary | changed


def status(**changed: Any) -> dict[str, Any]:
    """Two stages, the first with two hosts, one owner, and one host that stands by."""
    stages = [
        {"layers": [1, 3], "replicas": ["host-a", "host-b"], "routing_weights": [1.0, 3.0]},
        {"layers": [3, 4], "replicas": ["host-c"], "routing_weights": [2.0]},
    ]
    ordinary: dict[str, Any] = {
        "run": "test",
        "fingerprint": "f" * 64,
        "scheduler": "the-scheduler",
        "phase": "open",
        "waiting_for": ["host-c"],
        "written_at_s": NOW_S - 1,
        "last_step": {"tokens_per_s": 50.0, "eta_s": 95.0},
        "checkpoint": "",
        "plan": {"number": 3, "stages": stages, "owners": ["owner-a"], "predicted_tokens_per_s": 80.0},
        "peers": {
            "host-a": peer_facts(),
            "host-b": peer_facts(),
            "host-c": peer_facts(waiting_for="activations"),
            "host-d": peer_facts(),
            "owner-a": peer_facts("owner"),
        },
    }
    return ordinary | changed


def ledger(num_steps: int = 5, last_at_s: float = NOW_S - 0.5) -> LedgerBook:
    """Steps of 32 tokens, one a second; `host-a` and `owner-a` did all of it."""
    book = LedgerBook()
    for step in range(num_steps):
        book.take_step(StepRow(step, 1, 3, 32, 64.0 - step, 0.5, last_at_s - num_steps + 1 + step))
    book.take_work("host-a", "hosted", 2 * num_steps, 32 * num_steps, num_steps - 1)
    book.take_work("owner-a", "owned", 2 * num_steps, 32 * num_steps, num_steps - 1)
    return book


def events(*told: dict[str, Any]) -> EventBook:
    """What the scheduler told."""
    book = EventBook()
    for event in told:
        book.take(event)
    return book


def seen(*told: dict[str, Any], book: LedgerBook | None = None, **changed: Any) -> View:
    """The view of it."""
    return view(status(**changed), events(*told), book or ledger(), STEPS, NOW_S)
