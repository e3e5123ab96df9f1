"""What an admin should look at. Pure; the same alerts go to the pages, `swarm status` and the metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from scheduler.dashboard.view import View
from scheduler.rating import TOLERANCE
from swarm.words import duration

WIDE_GAP = 0.10
"""Of the bound that the plan may be missing: more is told."""
_STALLED_S = 30.0
_STALLED_STEPS = 10.0
"""A step that takes as long as so many before it, and longer than `_STALLED_S`, is told."""
_NEWS_S = 600.0
"""A peer that was lost longer ago is gone."""

Kind = Literal["scheduler_silent", "step_stalled", "one_replica", "plan_gap", "slow_peer", "lost_peer"]
KINDS: tuple[Kind, ...] = ("scheduler_silent", "step_stalled", "one_replica", "plan_gap", "slow_peer", "lost_peer")


@dataclass(frozen=True, slots=True)
class Alert:
    """One sentence; `subject` is the peer or the lane that it is about."""

    kind: Kind
    is_critical: bool
    subject: str
    text: str


def alerts(view: View) -> tuple[Alert, ...]:
    """All of now, the critical ones first."""
    return tuple(sorted(_alerts(view), key=lambda alert: not alert.is_critical))


def _alerts(view: View) -> Iterator[Alert]:
    if view.phase == "finished":
        return
    if view.is_silent:
        since = duration(view.age_s)
        yield Alert("scheduler_silent", True, "", f"the scheduler has said nothing for {since}: it does not run")
        return
    if view.phase != "paused" and view.step and view.step_age_s > max(_STALLED_S, _STALLED_STEPS * view.step_s):
        yield Alert("step_stalled", True, "", f"step {view.step + 1} takes {duration(view.step_age_s)} already")
    for lane in view.lanes:
        if lane.key.startswith("stage"):
            here = [box for box in lane.boxes if box.condition not in ("lost", "left", "paused", "leaving")]
            if len(here) == 1:
                words = f"{lane.title} ({lane.detail}) has one replica, {here[0].name}: without it the run stops"
                yield Alert("one_replica", False, lane.key, words)
            elif not here:
                yield Alert("one_replica", True, lane.key, f"{lane.title} ({lane.detail}) has no host")
    if view.gap > WIDE_GAP:
        yield Alert("plan_gap", False, "", f"plan {view.plan} may miss {view.gap:.0%} of what no plan exceeds")
    for peer in view.peers:
        if peer.condition == "lost" and peer.lost_for_s < _NEWS_S:
            yield Alert("lost_peer", False, peer.peer, f"{peer.name} was lost {duration(peer.lost_for_s)} ago")
        elif peer.claimed_layer_s and peer.rated_layer_s > TOLERANCE * peer.claimed_layer_s:
            ratio = peer.rated_layer_s / peer.claimed_layer_s
            yield Alert("slow_peer", False, peer.peer, f"{peer.name} is {ratio:.1f} times slower than it claimed")
