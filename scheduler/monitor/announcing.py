"""What is announced of a view. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.dashboard.alerts import Alert
from scheduler.dashboard.view import View
from swarm.wire.messages import MetricsAnnounced, PlanAnnounced, StageAnnounced

_MOST_NAMED = 100
"""Peers that a step waits for, and alerts: a second's announcement stays small."""
_AWAY = ("left", "lost", "paused", "unknown")


def metrics_of(view: View, alerts: Sequence[Alert], certificate: bytes, now_s: float) -> MetricsAnnounced:
    """How the run goes."""
    here = [peer for peer in view.peers if peer.condition not in _AWAY]
    return MetricsAnnounced(
        certificate=certificate,
        term=view.term,
        sent_at_s=now_s,
        run=view.run,
        phase=view.phase,
        step=view.step,
        steps=view.steps,
        tokens=view.tokens,
        loss=() if view.loss is None else (view.loss,),
        tokens_per_s=view.tokens_per_s,
        eta_s=view.eta_s,
        step_age_s=view.step_age_s,
        plan=view.plan,
        num_hosts=sum("host" in peer.roles for peer in here),
        num_owners=sum("owner" in peer.roles for peer in here),
        waiting_for=view.waiting_for[:_MOST_NAMED],
        alerts=tuple(alert.text for alert in alerts[:_MOST_NAMED]),
    )


def plan_of(view: View, plan: Mapping[str, Any], certificate: bytes, now_s: float) -> PlanAnnounced:
    """The plan that holds.

    Args:
        plan: as the status file has it.
    """
    return PlanAnnounced(
        certificate=certificate,
        term=view.term,
        sent_at_s=now_s,
        number=plan["number"],
        stages=tuple(
            StageAnnounced(
                first_layer=stage["layers"][0], last_layer=stage["layers"][1], hosts=tuple(stage["replicas"])
            )
            for stage in plan["stages"]
        ),
        owners=tuple(plan["owners"]),
        predicted_tokens_per_s=view.predicted_tokens_per_s,
        bound_tokens_per_s=view.bound_tokens_per_s,
        gap=view.gap,
    )
