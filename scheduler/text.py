"""The scheduler's events and status, in words for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from swarm.words import duration, short

_PEER_ID = re.compile(r"\b12D3KooW[1-9A-HJ-NP-Za-km-z]{44}\b")


def peers_in(words: str) -> list[str]:
    """Peer ids that a text names."""
    return _PEER_ID.findall(words)


def shortened(words: str) -> str:
    """A text with its peer ids as people can tell them apart."""
    return _PEER_ID.sub(lambda found: short(found.group()), words)


def in_words(event: Mapping[str, Any]) -> str:
    """One line for an event; empty for those that only programs want."""
    match event["event"]:
        case "listening":
            invites = "\n".join(f"  {role}: swarm join {path}" for role, path in event["invites"].items())
            return f"listening on {', '.join(event['addresses'])}; let peers join with\n{invites}"
        case "waiting":
            return f"waiting for {event['for']}"
        case "registered":
            return f"{short(event['peer'])} is here as {' and '.join(event['roles'])}"
        case "relayed":
            return f"{short(event['peer'])} cannot be dialled, and is reached through the relay here"
        case "plan":
            stages = "; ".join(
                f"layers {stage['layers'][0]}-{stage['layers'][1] - 1}: {', '.join(map(short, stage['replicas']))}"
                for stage in event["stages"]
            )
            rate = f"{event['predicted_tokens_per_s']:,.0f} tokens/s predicted"
            return f"plan {event['number']}: {stages}; {len(event['owners'])} owners; {rate}"
        case "rerated":
            return f"{short(event['peer'])} is rated at {event['layer_s'] * 1000:.3g} ms a layer from now on"
        case "relined":
            return f"the line of {short(event['peer'])} is now {event['up'] * 8 / 1e6:.3g} Mbit/s up"
        case "certified":
            pairs = event["measured_pairs"] + event["estimated_pairs"]
            return (
                f"the plan promises {event['predicted_tokens_per_s']:,.0f} tokens/s; none exceeds "
                f"{event['bound_tokens_per_s']:,.0f}, so it misses at most {event['gap']:.1%}; "
                f"{event['measured_pairs']} of {pairs} ways between members were measured, the others estimated"
            )
        case "bound":
            return (
                f"as members measure now, plan {event['plan']} promises {event['predicted_tokens_per_s']:,.0f} "
                f"tokens/s; none exceeds {event['bound_tokens_per_s']:,.0f}"
            )
        case "plan_change":
            return "the plan changes: " + "; ".join(event["reasons"])
        case "step":
            return (
                f"step {event['step']}/{event['steps']}  loss {event['loss']:.4f}  "
                f"{event['tokens_per_s']:,.0f} tokens/s  {duration(event['eta_s'])} to go"
            )
        case "progress" if event["phase"] == "paused":
            return f"the run is paused by its admin, before step {event['step'] + 1}"
        case "progress":
            who = ", ".join(map(short, event["waiting_for"])) or "nobody"
            return f"step {event['step'] + 1} is {event['phase']} for {duration(event['since_s'])}, waiting for {who}"
        case "lost":
            return f"lost {short(event['peer'])} in step {event['step']}: {event['problem']}"
        case "revoked":
            return f"the admin revoked the membership of {short(event['peer'])}"
        case "run_paused":
            return f"the run is paused by its admin before step {event['step'] + 1}; `swarm unpause-run` lets it go on"
        case "run_unpaused":
            return f"the run goes on with step {event['step'] + 1}"
        case "leaving":
            return f"{short(event['peer'])} wants to leave; it works until a step is committed without it"
        case "left":
            return f"{short(event['peer'])} left, and all of its work counts"
        case "paused":
            return f"{short(event['peer'])} pauses, and is asked for nothing"
        case "dashboard":
            key = f"; its token is in {event['token_file']}" if event["token_file"] else ""
            return f"dashboard at {event['url']}{key}"
        case "monitor":
            return f"announcing the run at {', '.join(event['addresses'])}; `swarm watch INVITE` shows it"
        case "standby":
            return f"scheduler {short(event['peer'])} stands by"
        case "following":
            return f"following scheduler {short(event['leader'])}, which leads term {event['term']}"
        case "leader_gone":
            return f"scheduler {short(event['leader'])} does not lead any more: {event['problem']}"
        case "leading":
            return f"leading term {event['term']}"
        case "regroup":
            return f"the members are gathered again: {event['problem']}"
        case "handed_over":
            return "another scheduler takes over"
        case "building":
            return f"{event['missing']} groups of layers are not ready yet"
        case "suspect":
            return f"{short(event['by'])} suspects {short(event['peer'])}: {event['problem']}"
        case "round_failed":
            return f"a round failed and is repeated: {event['problem']}"
        case "checkpoint":
            return f"checkpoint of step {event['step']} in {event['folder']}"
        case "warning":
            return f"warning: {event['problem']}"
        case "finished":
            return f"finished; the last checkpoint is {event['checkpoint']}"
    return ""


def status_table(status: dict[str, Any], alerts: Sequence[str] = ()) -> list[Any]:
    """What `swarm status` prints: a headline and a table of the peers."""
    step = status["last_step"]
    phase = "paused by its admin" if status["phase"] == "paused" else status["phase"]
    headline = f"run {status['run']} · {phase}"
    if step:
        headline += f" · {in_words(step)}"
    if status["waiting_for"]:
        headline += f" · waits for {', '.join(map(short, status['waiting_for']))}"
    if status.get("relay"):
        relay = status["relay"]
        headline += f" · relays for {len(relay['peers'])} peers, {relay['carried_bytes'] / 1e6:,.0f} MB so far"
    table = Table("peer", "part", "state", "tokens", "waits for")
    for peer, facts in status["peers"].items():
        part = "none any more" if facts["state"] == "lost" else _part(status["plan"], peer)
        table.add_row(short(peer), part, facts["state"], f"{facts['computed_tokens']:,}", facts["waiting_for"])
    return [headline, *(f"\n! {alert}" for alert in alerts), "\n", table]


def _part(plan: dict[str, Any] | None, peer: str) -> str:
    if plan is None:
        return "no plan yet"
    parts = [f"stage {index}" for index, stage in enumerate(plan["stages"]) if peer in stage["replicas"]]
    if peer in plan["owners"]:
        parts.append("owner")
    return " and ".join(parts) or "stands by"
