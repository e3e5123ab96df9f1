"""What the scheduler knows of the run, for people and programs: one JSON file, rewritten as things change."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scheduler.instructions import Record
from scheduler.survey import Survey
from swarm.config import RunConfig
from swarm.durable import replacing
from swarm.plan import Plan
from swarm.wire.messages import Capabilities, Heartbeat

_SMOOTHING = 0.1

Event = Callable[[dict[str, Any]], None]
"""Shows people and programs what happened: a mapping with the key `event`."""


@dataclass(slots=True)
class Status:
    """The run as of now.

    Args:
        scheduler: our peer id.
        term: that we lead; 0 while we do not.
    """

    path: Path
    config: RunConfig
    scheduler: str = ""
    term: int = 0
    phase: str = "starting"
    plan: Plan | None = None
    started_at_s: float = 0.0
    checkpoint: str = ""
    waiting_for: tuple[str, ...] = ()
    relay: dict[str, Any] | None = None
    _certificate: dict[str, Any] = field(default_factory=dict)
    _phase_s: dict[str, float] = field(default_factory=dict)
    _entered_s: float = 0.0
    _last_step: dict[str, Any] = field(default_factory=dict)
    _last_step_at_s: float = 0.0
    _step_s: float = 0.0
    _peers: dict[str, dict[str, Any]] = field(default_factory=dict)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def on_registered(self, peer: str, capabilities: Capabilities) -> None:
        """A member is here."""
        self._peers[peer] = {
            **asdict(capabilities),
            "state": "here",
            "waiting_for": "",
            "computed_tokens": 0,
            "observed_layer_seconds": 0.0,
        }

    def certify(self, predicted_tokens_per_s: float, bound_tokens_per_s: float, question: Survey) -> dict[str, Any]:
        """How good the first plan is, and how much of what it was made from was measured; returns what to tell."""
        self._certificate = {
            "predicted_tokens_per_s": predicted_tokens_per_s,
            "bound_tokens_per_s": bound_tokens_per_s,
            "gap": 1 - predicted_tokens_per_s / bound_tokens_per_s,
            "measured_pairs": question.measured_pairs,
            "estimated_pairs": question.estimated_pairs,
        }
        return {"event": "certified"} | self._certificate

    def on_heartbeat(self, peer: str, heartbeat: Heartbeat) -> None:
        """A member says what it waits for."""
        if peer in self._peers:
            self._peers[peer] |= {
                "waiting_for": heartbeat.waiting_for,
                "computed_tokens": heartbeat.computed_tokens,
                "observed_layer_seconds": heartbeat.layer_seconds,
            }

    def on_state(self, peer: str, state: str) -> None:
        """A member is `here` (again), `leaving`, has `left`, is `paused`, or is `lost`."""
        if peer in self._peers:
            self._peers[peer]["state"] = state

    def enter(self, phase: str, now_s: float) -> None:
        """The step is in another phase, or still in the same one.

        Args:
            now_s: of a clock that never goes back.
        """
        if self._entered_s:
            self._phase_s[self.phase] = self._phase_s.get(self.phase, 0.0) + now_s - self._entered_s
        self.phase, self._entered_s = phase, now_s

    def on_step(self, record: Record) -> dict[str, Any]:
        """A step was committed; returns what to tell: also where its time went, by the leader's phases."""
        phase_s, self._phase_s = self._phase_s, {}
        now_s = time.time()
        step_s = now_s - (self._last_step_at_s or self.started_at_s)
        self._step_s += (step_s - self._step_s) * (_SMOOTHING if self._step_s else 1.0)
        self._last_step_at_s = now_s
        left = self.config.schedule.steps - record.step - 1
        self._last_step = {
            "event": "step",
            "step": record.step + 1,
            "steps": self.config.schedule.steps,
            "loss": record.loss_sum / record.tokens,
            "grad_norm": record.grad_norm,
            "tokens": record.tokens,
            "tokens_per_s": record.tokens / self._step_s if self._step_s > 0 else 0.0,
            "eta_s": left * self._step_s,
            "elapsed_s": now_s - self.started_at_s,
            "phase_s": phase_s,
            "plan": record.plan,
        }
        return self._last_step

    def goes_on(self) -> None:
        """The run was paused: that time is no step's."""
        self._last_step_at_s = time.time()

    def progress(self) -> dict[str, Any]:
        """What goes on right now, between two steps' events."""
        return {
            "event": "progress",
            "phase": self.phase,
            "step": self._last_step.get("step", 0),
            "since_s": time.time() - (self._last_step_at_s or self.started_at_s),
            "waiting_for": list(self.waiting_for),
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "run": self.config.name,
            "fingerprint": self.config.fingerprint,
            "scheduler": self.scheduler,
            "term": self.term,
            "phase": self.phase,
            "waiting_for": list(self.waiting_for),
            "written_at_s": time.time(),
            "last_step": self._last_step,
            "checkpoint": self.checkpoint,
            "plan": None if self.plan is None else plan_json(self.plan),
            "first_plan": self._certificate,
            "relay": self.relay,
            "peers": self._peers,
        }

    def save(self) -> None:
        """Rewrite the file; a disk that refuses keeps the old one: what matters more is told elsewhere."""
        with self._writing, contextlib.suppress(OSError), replacing(self.path) as file:
            file.write(json.dumps(self.as_json()).encode())


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    return {
        "number": plan.number,
        "stages": [
            {
                "layers": [stage.first_layer, stage.last_layer],
                "replicas": list(stage.replicas),
                "routing_weights": list(stage.routing_weights),
                "reduce_fractions": list(stage.reduce_fractions),
                "shadows": list(stage.shadows),
            }
            for stage in plan.stages
        ],
        "owners": list(plan.owners),
        "window": plan.window,
        "thin_lines": {line.peer: line.codec for line in plan.thin_lines},
        "predicted_tokens_per_s": plan.predicted_tokens_per_s,
    }
