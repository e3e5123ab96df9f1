"""What the tables show, row by row. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from scheduler.dashboard.view import EventLine, Link, PeerView, View
from scheduler.dashboard.words import clock, mbit, milliseconds
from swarm.words import short

MOST_ROWS = 500
"""In a browser; `swarm status --json` has all."""

Columns = Sequence[tuple[str, str, str]]
Rows = list[dict[str, Any]]

PEERS: Columns = (
    ("name", "peer", "peer"),
    ("part", "part", "text"),
    ("state", "state", "text"),
    ("hosted", "hosted", "number"),
    ("owned", "owned", "number"),
    ("tokens", "tokens", "number"),
    ("share", "share %", "number"),
    ("layer", "ms a layer", "number"),
    ("up", "up Mbit/s", "number"),
    ("down", "down Mbit/s", "number"),
    ("waits", "waits for", "words"),
)
LINKS: Columns = (
    ("source", "from", "peer"),
    ("target", "to", "peer"),
    ("round_trip", "round trip ms", "number"),
    ("rate", "Mbit/s", "number"),
)
EVENTS: Columns = (("time", "time", "time"), ("words", "what happened", "words"))


def peers(view: View) -> Rows:
    """Who is here and what everybody contributed to committed steps; most first."""
    total = sum(_tokens(peer) for peer in view.peers)
    ranked = sorted(view.peers, key=lambda peer: (-_tokens(peer), peer.peer))
    return [
        {
            "id": peer.peer,
            "name": peer.name,
            "name_id": peer.peer,
            "part": peer.part,
            "state": peer.condition,
            "hosted": peer.done.hosted,
            "owned": peer.done.owned,
            "tokens": _tokens(peer),
            "share": round(100 * _tokens(peer) / total, 1) if total else 0.0,
            "layer": _number(milliseconds(peer.observed_layer_s or peer.rated_layer_s)),
            "up": _number(mbit(peer.up_bytes_per_s)),
            "down": _number(mbit(peer.down_bytes_per_s)),
            "waits": peer.waiting_for,
            "serious": False,
        }
        for peer in ranked[:MOST_ROWS]
    ]


def links(found: Sequence[Link], scheduler: str) -> Rows:
    """Ways between peers, the longest first."""
    ranked = heapq.nlargest(MOST_ROWS, found, key=lambda link: link.round_trip_s)
    return [
        {
            "id": f"{link.source} {link.target}",
            "source": short(link.source),
            "source_id": link.source,
            "target": "scheduler" if link.target == scheduler else short(link.target),
            "target_id": "" if link.target == scheduler else link.target,
            "round_trip": _number(milliseconds(link.round_trip_s)),
            "rate": _number(mbit(link.bytes_per_s)),
        }
        for link in ranked
    ]


def events(found: Sequence[EventLine]) -> Rows:
    """What happened, the newest first."""
    return [
        {
            "id": len(found) - number,
            "time": clock(event.time_s),
            "words": event.text,
            "serious": event.is_serious,
        }
        for number, event in enumerate(found)
    ]


def _tokens(peer: PeerView) -> int:
    """That went through its layers or came from its shard."""
    return peer.done.hosted_tokens + peer.done.owned_tokens


def _number(words: str) -> float | None:
    """A number that sorts as one, with as many digits as the words for people have."""
    return float(words.replace(",", "")) if words else None
