"""What a volunteer's own process says of itself, to the people on its machine. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from peers.attendance import Attending
from swarm.plan import Plan


@dataclass(frozen=True, slots=True)
class Part:
    """One group that this peer works in.

    Attributes:
        what: in a person's words.
        step: the open one.
        share: of the stage's microbatches, as the plan has it; None for a data owner, who takes what is lent.
    """

    what: str
    step: int
    share: float | None


@dataclass(slots=True)
class Standstill:
    """How long a peer has waited for the same thing."""

    _seen: tuple[object, ...] = ()
    _since_s: float = 0.0

    def lasts_s(self, now_s: float, *seen: object) -> float:
        """Seconds since anything of this was another: what is waited for, and what shows that work goes on."""
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        return now_s - self._since_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfView:
    """As of now.

    Attributes:
        state: of `peers.attendance`.
        reason: why it pauses.
        leader: the scheduler that it obeys; empty before the first.
        is_cut_off: whether that scheduler cannot be reached.
        reached: how others reach this peer, as it was when it started, in a person's words.
        beside: what it loads, or keeps a copy of, beside its parts, in a person's words.
        computed_tokens: since its start.
        sent_bytes, received_bytes: boundary tensors, state and messages since its start.
        today_bytes: both of these since midnight, over restarts.
        waiting_for: in a person's words.
        waiting_s: since it waits for that, or since the last work was done.
    """

    peer: str
    run: str
    roles: tuple[str, ...]
    state: str
    reason: str
    leader: str
    is_cut_off: bool
    reached: str
    parts: tuple[Part, ...]
    beside: tuple[str, ...]
    computed_tokens: int
    computed_microbatches: int
    sent_bytes: int
    received_bytes: int
    today_bytes: int
    waiting_for: str
    waiting_s: float
    running_s: float

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def share_of(plan: Plan, group: int, peer: str) -> float | None:
    """Of a trunk stage's microbatches, by the plan's routing weights; None for the owners' group."""
    if group >= len(plan.stages):
        return None
    stage = plan.stages[group]
    return stage.routing_weights[stage.replicas.index(peer)] / sum(stage.routing_weights)


def what_for(attending: Attending, waiting_for: str) -> str:
    """Who takes no part waits for its own people, whatever its part would wait for."""
    return "the pause to end" if attending.is_away else waiting_for


def as_lines(view: dict[str, Any]) -> list[tuple[str, str]]:
    """A view as plain values, as rows of a table."""
    state = view["state"] + (f": {view['reason']}" if view["reason"] else "")
    leader = view["leader"][-6:] or "none yet"
    rows = [("run", view["run"]), ("peer", view["peer"]), ("roles", " and ".join(view["roles"])), ("state", state)]
    for part in view["parts"]:
        share = "" if part["share"] is None else f", {part['share']:.0%} of its microbatches"
        rows.append(("part", f"{part['what']}, step {part['step']}{share}"))
    if not view["parts"]:
        rows.append(("part", "none"))
    rows += [("beside", what) for what in view["beside"]]
    rows += [
        ("work", f"{view['computed_microbatches']:,} microbatches, {view['computed_tokens']:,} tokens"),
        ("line", f"{_mib(view['sent_bytes'])} up, {_mib(view['received_bytes'])} down"),
        ("today", f"{_mib(view['today_bytes'])} up and down"),
        ("scheduler", leader + (", which cannot be reached" if view["is_cut_off"] else "")),
        ("reached", view["reached"]),
        ("waits for", f"{view['waiting_for']}, for {view['waiting_s']:.0f} s"),
    ]
    return rows


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):,.1f} MiB"
