"""Whether others can dial this peer, and where it says that it is. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from swarm.errors import NotReachable
from swarm.wire.circuit import CIRCUIT

_IP = re.compile(r"/ip[46]/([^/]+)/")
_TCP = re.compile(r"/tcp/(\d+)")
_MOST_ASKED = 4

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member said that dialled us.

    Attributes:
        member: its peer id.
        seen_at: the IP address that it sees us at; empty where it sees none.
        is_reached: we answered there.
        relays: it is a relay for members.
    """

    member: str
    seen_at: str
    is_reached: bool
    relays: bool


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether others can dial us.

    Attributes:
        is_reached: None where nobody could tell.
        seen_at: the IP address that this is about.
        relay: who offers to relay; empty where nobody does, or none is needed.
    """

    is_reached: bool | None
    seen_at: str = ""
    relay: str = ""


def ip_of(address: str) -> IpAddress | None:
    """The first IP address in a multiaddress; None where it has none."""
    match = _IP.match(address)
    try:
        return None if match is None else ipaddress.ip_address(match[1])
    except ValueError:
        return None


def port_of(addresses: Iterable[str]) -> int:
    """The first TCP port among multiaddresses; 0 where there is none."""
    return next((int(match[1]) for match in map(_TCP.search, addresses) if match is not None), 0)


def whom_to_ask(known: Iterable[str], ours: str) -> list[str]:
    """Members that can tell: not those of this machine, and first of all those on the Internet.

    Args:
        known: multiaddresses of members.
        ours: our peer id.
    """
    found: dict[str, bool] = {}
    for address in known:
        ip, peer = ip_of(address), address.rpartition("/p2p/")[2]
        if ip is not None and not ip.is_loopback and CIRCUIT not in address and peer != ours:
            found[peer] = found.get(peer, False) or ip.is_global
    return sorted(found, key=lambda peer: not found[peer])[:_MOST_ASKED]


def judge(answers: Iterable[Answer]) -> Reach:
    """Those who see us from the Internet know better than those in our own network."""
    told = [each for each in answers if each.seen_at]
    told = [each for each in told if ipaddress.ip_address(each.seen_at).is_global] or told
    if not told:
        return Reach(None)
    best = max(told, key=lambda each: each.is_reached)
    if best.is_reached:
        return Reach(True, best.seen_at)
    return Reach(False, best.seen_at, next((each.member for each in told if each.relays), ""))


def not_reachable(seen_at: str) -> NotReachable:
    """The error of a peer that others cannot dial there, in a run without a relay."""
    return NotReachable(
        f"others cannot dial this peer at {seen_at}, and the run has no relay",
        "forward a TCP port in the router to this machine and give it with --port, or ask the admin for --relay",
    )


def in_words(reach: Reach) -> str:
    """How others reach this peer, for people."""
    if reach.is_reached is None:
        return "nobody could tell"
    if reach.is_reached:
        return f"dialled at {reach.seen_at}"
    if reach.relay:
        return f"others cannot dial this peer at {reach.seen_at}: it is reached through the relay of {reach.relay}"
    return str(not_reachable(reach.seen_at))


def announced_behind(ours: Iterable[str], relay: str, known: Iterable[str]) -> tuple[str, ...]:
    """What a peer that is reached through a relay says of itself: its place in its own network, and the way there.

    Args:
        ours: multiaddresses that we listen on.
        relay: its peer id.
        known: multiaddresses of members, the relay's among them.
    """
    inside = [address.rpartition("/p2p/")[0] for address in ours if _is_abroad(address)]
    ways = [each for each in known if each.endswith(f"/p2p/{relay}") and CIRCUIT not in each and _is_abroad(each)]
    ways = [each for each in ways if getattr(ip_of(each), "is_global", False)] or ways
    return (*inside, *(f"{way}/{CIRCUIT}" for way in dict.fromkeys(ways)))


def _is_abroad(address: str) -> bool:
    ip = ip_of(address)
    return ip is not None and not ip.is_loopback
