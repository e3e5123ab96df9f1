"""What people are shown of a run, as plain values: the pages, `swarm status --json`, metrics, alerts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from scheduler.dashboard.books import Contribution, EventBook, LedgerBook
from scheduler.dashboard.history import Point
from scheduler.text import in_words, peers_in, shortened
from swarm.words import short

SILENT_S = 10.0
"""The scheduler rewrites its status every second; one that has not for so long does not run."""

Condition = Literal["works", "waits", "stands by", "leaving", "left", "paused", "lost", "unknown"]
"""Of a peer: `waits` for something itself, with a part in the plan."""

_LATE_STEPS = 2.0
"""A step that takes as long as so many before it waits for somebody in particular."""
_LATE_S = 1.0
_OWN_BUSINESS = ("listening", "dashboard", "monitor")
"""Where the scheduler's files and addresses are is for whoever started it."""
_ALIKE = 1.01
"""Stages whose rates differ by less are bottlenecks alike."""
REST = "rest"
"""The lane of those that have no part."""
_GONE = {"leaving": "leaving", "left": "left", "paused": "paused", "lost": "lost"}
_SERIOUS = frozenset({"lost", "round_failed", "regroup", "warning", "leader_gone", "suspect"})


@dataclass(frozen=True, slots=True)
class Link:
    """A way between two peers, as the first one measured it."""

    source: str
    target: str
    round_trip_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer.

    Attributes:
        part: in words.
        holds_up: the step waits for it, and longer than for any peer before.
        claimed_layer_s: measured when it came; 0 for a peer that does not host.
        observed_layer_s: by itself, while it trains; 0 before.
        rated_layer_s: what plans count on.
        lost_for_s: since it was lost, where it is.
    """

    peer: str
    name: str
    roles: tuple[str, ...]
    part: str
    condition: Condition
    holds_up: bool
    waiting_for: str
    claimed_layer_s: float
    observed_layer_s: float
    rated_layer_s: float
    ends_s: float
    memory_bytes: int
    lost_for_s: float
    up_bytes_per_s: float
    down_bytes_per_s: float
    links: tuple[Link, ...]
    done: Contribution


@dataclass(frozen=True, slots=True)
class Box:
    """A peer in a lane; `share` of the lane's work, by the plan."""

    peer: str
    name: str
    share: float
    condition: Condition
    holds_up: bool
    words: str


@dataclass(frozen=True, slots=True)
class Lane:
    """A stage, the owners, or the peers without a part.

    Attributes:
        key: `owners`, `stage-0`, …, `REST`.
        load: share of the time that it works when the slowest lane always does; 0 where that is not known.
        microbatches_per_s: that it can do, by the plan.
    """

    key: str
    title: str
    detail: str
    load: float
    is_bottleneck: bool
    microbatches_per_s: float
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event in words."""

    time_s: float
    kind: str
    text: str
    peers: tuple[str, ...]
    is_serious: bool


@dataclass(frozen=True, slots=True)
class View:
    """The run as of now.

    Attributes:
        scheduler: its peer id.
        term: that it leads; 0 where it does not.
        is_silent: the scheduler does not run, and the run is not finished.
        age_s: of what the scheduler wrote last.
        step_s: of the last steps, on average.
        step_age_s: since the last commit, or since the leader began.
        bound_tokens_per_s: 0 where none is known.
        gap: share of the bound that the plan may be missing.
        history, times: of steps; see `LedgerBook.history` and `EventBook.times`.
        predictions, bounds: (first step, tokens per second).
    """

    run: str
    fingerprint: str
    scheduler: str
    term: int
    phase: str
    is_silent: bool
    age_s: float
    step: int
    steps: int
    tokens: int
    loss: float | None
    grad_norm: float | None
    tokens_per_s: float
    eta_s: float
    step_s: float
    step_age_s: float
    waiting_for: tuple[str, ...]
    plan: int
    predicted_tokens_per_s: float
    bound_tokens_per_s: float
    gap: float
    checkpoint: str
    lanes: tuple[Lane, ...]
    peers: tuple[PeerView, ...]
    history: tuple[Point, ...]
    times: tuple[Point, ...]
    predictions: tuple[tuple[int, float], ...]
    bounds: tuple[tuple[int, float], ...]
    phase_s: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    events: tuple[EventLine, ...] = ()

    def peer(self, peer: str) -> PeerView | None:
        """One of them by its id."""
        return next((each for each in self.peers if each.peer == peer), None)

    @property
    def links(self) -> tuple[Link, ...]:
        """Of all peers that are not gone."""
        return tuple(
            link for each in self.peers if each.condition not in ("lost", "left", "paused") for link in each.links
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return asdict(self)


def view(status: Mapping[str, Any], events: EventBook, ledger: LedgerBook, steps: int, now_s: float) -> View:
    """Bring together what a run's folder tells.

    Args:
        status: the scheduler's status file; empty before there is one.
        steps: of the whole run.
        now_s: since 1970.
    """
    last = status.get("last_step") or {}
    plan = status.get("plan")
    phase = str(status.get("phase", "not started"))
    age_s = max(0.0, now_s - float(status.get("written_at_s", now_s)))
    waiting_for = tuple(map(str, status.get("waiting_for", ())))
    newest = ledger.newest
    left = steps - ledger.num_steps
    eta_s = float(last.get("eta_s", 0.0))
    step_s = eta_s / left if left > 0 else 0.0
    step_age_s = max(0.0, now_s - newest.committed_at_s) if newest else 0.0
    is_late = newest is None or step_age_s > max(_LATE_S, _LATE_STEPS * step_s)
    late = frozenset(waiting_for) if is_late else frozenset[str]()
    peers = tuple(_peers(status.get("peers", {}), plan, events, ledger, late, now_s))
    predicted = float(plan["predicted_tokens_per_s"]) if plan else 0.0
    if plan and events.judged[0] == plan["number"]:
        predicted = events.judged[1]  # members may measure otherwise by now
    bound = events.bounds[-1][1] if events.bounds else 0.0
    return View(
        run=str(status.get("run", "")),
        fingerprint=str(status.get("fingerprint", "")),
        scheduler=str(status.get("scheduler", "")),
        term=int(status.get("term", 0)),
        phase=phase,
        is_silent=bool(status) and phase != "finished" and age_s > SILENT_S,
        age_s=age_s,
        step=ledger.num_steps,
        steps=steps,
        tokens=ledger.tokens,
        loss=newest.loss_sum / newest.tokens if newest and newest.tokens else None,
        grad_norm=newest.grad_norm if newest else None,
        tokens_per_s=float(last.get("tokens_per_s", 0.0)),
        eta_s=eta_s,
        step_s=step_s,
        step_age_s=step_age_s,
        waiting_for=waiting_for,
        plan=int(plan["number"]) if plan else 0,
        predicted_tokens_per_s=predicted,
        bound_tokens_per_s=bound,
        gap=max(0.0, 1 - predicted / bound) if plan and bound > 0 else 0.0,
        checkpoint=str(status.get("checkpoint", "")),
        lanes=_lanes(plan, peers),
        peers=peers,
        history=tuple(ledger.history.points),
        times=tuple(events.times.points),
        predictions=tuple(events.predictions),
        bounds=tuple(events.bounds),
        phase_s=dict(events.phase_s),
        counts=dict(events.counts),
        events=tuple(_line(event) for event in reversed(events.recent) if _is_shown(event)),
    )


def _is_shown(event: Mapping[str, Any]) -> bool:
    return event["event"] not in _OWN_BUSINESS and bool(_words(event))


def _words(event: Mapping[str, Any]) -> str:
    try:
        return in_words(event)
    except (KeyError, TypeError, ValueError):  # of another version, or damaged
        return str(event["event"])


def _line(event: Mapping[str, Any]) -> EventLine:
    kind, words = str(event["event"]), _words(event)
    peers = {str(event[key]) for key in ("peer", "by") if key in event} | set(peers_in(words))
    return EventLine(float(event.get("time_s", 0.0)), kind, shortened(words), tuple(sorted(peers)), kind in _SERIOUS)


# --- peers -------------------------------------------------------------------------------------------------------


def _peers(
    peers: Mapping[str, Mapping[str, Any]],
    plan: Mapping[str, Any] | None,
    events: EventBook,
    ledger: LedgerBook,
    waited_for: frozenset[str],
    now_s: float,
) -> list[PeerView]:
    """Those the scheduler knows now, then those that only the ledger remembers."""
    parts = _parts(plan)
    found = []
    for peer in [*peers, *sorted(ledger.contributions.keys() - peers.keys())]:
        facts = peers.get(peer, {})
        claimed = float(facts.get("layer_seconds", 0.0))
        up, down = events.lines.get(peer, (facts.get("up_bytes_per_s", 0.0), facts.get("down_bytes_per_s", 0.0)))
        condition = _condition(facts, peer in parts)
        found.append(
            PeerView(
                peer=peer,
                name=short(peer),
                roles=tuple(map(str, facts.get("roles", ()))),
                part=" and ".join(parts.get(peer, ())) or "none",
                condition=condition,
                holds_up=peer in waited_for,
                waiting_for=str(facts.get("waiting_for", "")) if condition == "waits" else "",
                claimed_layer_s=claimed,
                observed_layer_s=float(facts.get("observed_layer_seconds", 0.0)),
                rated_layer_s=events.rated_layer_s.get(peer, claimed),
                ends_s=float(facts.get("ends_seconds", 0.0)),
                memory_bytes=int(facts.get("memory_bytes", 0)),
                lost_for_s=now_s - events.lost_at_s.get(peer, now_s) if condition == "lost" else 0.0,
                up_bytes_per_s=up,
                down_bytes_per_s=down,
                links=tuple(
                    Link(peer, link["peer"], link["round_trip_s"], link["bytes_per_s"])
                    for link in facts.get("links", ())
                ),
                done=ledger.contributions.get(peer, Contribution()),
            )
        )
    return found


def _parts(plan: Mapping[str, Any] | None) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    if plan is not None:
        for number, stage in enumerate(plan["stages"]):
            for peer in stage["replicas"]:
                parts.setdefault(peer, []).append(f"stage {number}")
        for peer in plan["owners"]:
            parts.setdefault(peer, []).append("owner")
    return parts


def _condition(facts: Mapping[str, Any], has_part: bool) -> Condition:
    state = facts.get("state")
    if state is None:
        return "unknown"
    if state in _GONE:
        return _GONE[state]  # type: ignore[return-value]
    if not has_part:
        return "stands by"
    return "waits" if facts.get("waiting_for") else "works"


# --- lanes -------------------------------------------------------------------------------------------------------


def _lanes(plan: Mapping[str, Any] | None, peers: tuple[PeerView, ...]) -> tuple[Lane, ...]:
    """From the owners through the stages; then those who have no part."""
    by_id = {each.peer: each for each in peers}
    placed: set[str] = set()
    drafts: list[tuple[str, str, str, list[tuple[str, float]]]] = []
    if plan is not None:
        owners = [(peer, 1 / max(_ends_s(by_id, peer), 1e-9)) for peer in plan["owners"]]
        drafts.append(("owners", "owners", "both ends of the model", owners))
        for number, stage in enumerate(plan["stages"]):
            first, last = stage["layers"]
            layers = f"layers {first}-{last - 1}" if last - first > 1 else f"layer {first}"
            if copies := len(stage.get("shadows", ())):
                layers += f", {copies} {'copy' if copies == 1 else 'copies'}"
            members = list(zip(stage["replicas"], stage["routing_weights"], strict=True))
            drafts.append((f"stage-{number}", f"stage {number}", layers, members))
        placed = {peer for *_, members in drafts for peer, _ in members}
    knows_ends = all(_ends_s(by_id, peer) > 0 for peer in (plan or {}).get("owners", ()))
    rates = [
        sum(rate for _, rate in members) if key != "owners" or knows_ends else 0.0 for key, _, _, members in drafts
    ]
    slowest = min((rate for rate in rates if rate > 0), default=0.0)
    lanes = [
        Lane(
            key=key,
            title=title,
            detail=detail,
            load=slowest / rate if rate > 0 else 0.0,
            is_bottleneck=0 < rate <= slowest * _ALIKE,
            microbatches_per_s=rate,
            boxes=_boxes(by_id, members, knows_shares=key != "owners"),
        )
        for (key, title, detail, members), rate in zip(drafts, rates, strict=True)
    ]
    rest = tuple(_box(by_id, each.peer, 0.0) for each in peers if each.peer not in placed and each.roles)
    if rest:
        lanes.append(Lane(REST, "no part", "standing by, or gone", 0.0, False, 0.0, rest))
    return tuple(lanes)


def _boxes(by_id: Mapping[str, PeerView], members: list[tuple[str, float]], *, knows_shares: bool) -> tuple[Box, ...]:
    """Owners take leases as they finish others: no plan gives them shares."""
    total = sum(rate for _, rate in members)
    return tuple(_box(by_id, peer, rate / total if knows_shares else 0.0) for peer, rate in members)


def _ends_s(by_id: Mapping[str, PeerView], peer: str) -> float:
    return by_id[peer].ends_s if peer in by_id else 0.0


def _box(by_id: Mapping[str, PeerView], peer: str, share: float) -> Box:
    known = by_id.get(peer)
    condition: Condition = known.condition if known else "unknown"
    words: list[str] = [condition]
    if share:
        words.append(f"{share:.0%} of the work")
    if known and known.waiting_for:
        words.append(f"waits for {known.waiting_for}")
    if known and known.holds_up:
        words.append("the step waits for it")
    return Box(peer, short(peer), share, condition, known.holds_up if known else False, ", ".join(words))
