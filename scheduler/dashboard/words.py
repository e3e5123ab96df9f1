"""Figures and states in words. Pure."""

from __future__ import annotations

import time

from scheduler.dashboard.view import PeerView, View
from swarm.words import duration

_PHASES = {
    "open": "computing",
    "closing": "closing the books",
    "reducing": "all-reduce",
    "recording": "writing the ledger",
    "held": "checking who lives",
}
_PAUSED = "paused"


def phase_in_words(phase: str) -> str:
    """The leader's phases as people would call them; other states of a scheduler are words already."""
    return "paused by the admin" if phase == _PAUSED else _PHASES.get(phase, phase)


def state(view: View) -> tuple[str, str]:
    """The run in a word or two, and how good that is: `good`, `wait` or `bad`."""
    if view.phase == "finished":
        return "finished", "good"
    if view.is_silent:
        return "not running", "bad"
    return ("training", "good") if view.phase in _PHASES else (phase_in_words(view.phase), "wait")


def counted(number: int, what: str, several: str = "") -> str:
    """A number of things."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def bytes_in_words(value: float) -> str:
    """Memory."""
    return f"{value / (1 << 30):,.1f} GiB" if value >= 1 << 30 else f"{value / (1 << 20):,.0f} MiB"


def figure(value: float) -> str:
    """With three digits at least, and no power of ten."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def mbit(bytes_per_s: float) -> str:
    """A line, in Mbit/s; empty where it is not known."""
    return figure(bytes_per_s * 8 / 1e6) if bytes_per_s else ""


def milliseconds(seconds: float) -> str:
    """In ms; empty where it is not known."""
    return figure(seconds * 1000) if seconds else ""


def clock(time_s: float) -> str:
    """Date and time at the scheduler's machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s)) if time_s else ""


def facts(peer: PeerView) -> list[tuple[str, str]]:
    """All that is known of a peer."""
    done = peer.done
    found = [
        ("peer id", peer.peer),
        ("roles", ", ".join(peer.roles) or "not here since the scheduler started"),
        ("part", peer.part),
        ("state", peer.condition + (", the step waits for it" if peer.holds_up else "")),
        ("waits for", peer.waiting_for or "nothing"),
        ("hosted", f"{done.hosted:,} microbatches, {done.hosted_tokens:,} tokens"),
        ("from its shard", f"{done.owned:,} microbatches, {done.owned_tokens:,} tokens"),
        ("last step it had a part in", f"{done.last_step:,}" if done.last_step else "none"),
        ("a layer, as it claimed", _layer(peer.claimed_layer_s)),
        ("a layer, as it observes", _layer(peer.observed_layer_s)),
        ("a layer, as plans count on", _layer(peer.rated_layer_s)),
        ("both ends", f"{milliseconds(peer.ends_s)} ms a microbatch" if peer.ends_s else "owns no data"),
        ("memory", bytes_in_words(peer.memory_bytes)),
        ("line up", f"{mbit(peer.up_bytes_per_s) or '?'} Mbit/s"),
        ("line down", f"{mbit(peer.down_bytes_per_s) or '?'} Mbit/s"),
    ]
    if peer.condition == "lost":
        found.insert(4, ("lost", f"{duration(peer.lost_for_s)} ago"))
    return found


def _layer(seconds: float) -> str:
    return f"{milliseconds(seconds)} ms a microbatch" if seconds else "not known"
