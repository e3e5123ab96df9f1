"""What `swarm doctor` finds, and what follows from it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from swarm.errors import SwarmError, status_of
from swarm.net.reach import IpAddress, Reach, ip_of, not_reachable

Verdict = Literal["good", "warning", "bad", "unknown"]
"""`bad` keeps the peer from working; `warning` makes it worse; `unknown` could not be looked at."""
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)")
_LEADING_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: was looked at.
        text: what was found, without a full stop.
        code: of the error that it would end with; empty where it is good.
        remedy: empty where it is good.
    """

    what: str
    verdict: Verdict
    text: str
    code: str = ""
    remedy: str = ""

    @classmethod
    def of_error(cls, what: str, error: SwarmError, verdict: Verdict = "bad") -> Finding:
        """What joining would say."""
        return cls(what, verdict, error.problem, error.code, error.remedy)

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def exit_status(findings: Iterable[Finding]) -> int:
    """0 where nothing keeps the peer from working; else that of the first thing that does."""
    return next((status_of(finding.code) for finding in findings if finding.verdict == "bad"), 0)


def missing(requirements: Iterable[str], installed: Mapping[str, str]) -> list[str]:
    """Requirements, `NAME>=VERSION`, that what is installed does not meet; those of extras are not judged.

    Args:
        installed: versions by name; a package that is not installed is missing.
    """
    versions = {_plain(name): version for name, version in installed.items()}
    found = []
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement.strip())
        if match is None:
            continue
        name, least = match.groups()
        version = versions.get(_plain(name))
        if version is None:
            found.append(f"{name} is missing")
        elif _numbers(version) < _numbers(least):
            found.append(f"{name} is {version}, and {least} is needed")
    return found


def _plain(name: str) -> str:
    """Packages spell their names in several ways."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    match = _LEADING_NUMBERS.match(version)
    return tuple(map(int, match[0].split("."))) if match else ()


def judge_reach(reach: Reach) -> Finding | None:
    """What members found that dialled us; None where none could tell."""
    if reach.is_reached is None:
        return None
    if reach.is_reached:
        return Finding("dialled by others", "good", f"a member dialled this peer at {reach.seen_at}, and it answered")
    if reach.relay:
        text = f"members cannot dial this peer at {reach.seen_at}; the relay of {reach.relay} helps, and costs time"
        return Finding("dialled by others", "good", text)
    return Finding.of_error("dialled by others", not_reachable(reach.seen_at))


def judge_addresses(ours: Iterable[str], others: Iterable[str]) -> Finding:
    """Whether others can dial us at the addresses that we listen on, as far as those tell.

    Args:
        ours, others: multiaddresses; others are members'.
    """
    own, theirs = _ips(ours), _ips(others)
    listed = ", ".join(map(str, own)) or "no address"
    if theirs and all(each.is_loopback for each in theirs):
        return Finding("dialled by others", "good", f"listens on {listed}; the run is on this machine")
    if all(each.is_loopback for each in own):
        return Finding(
            "dialled by others",
            "bad",
            f"listens on {listed} only, where no other machine reaches it",
            "S203",
            "listen on the network with --host 0.0.0.0",
        )
    if all(each.is_private for each in own) and any(each.is_global for each in theirs):
        return Finding(
            "dialled by others",
            "warning",
            f"listens on {listed}, which members on the Internet do not reach without help",
            "S203",
            "give --port, and forward that TCP port in the router to this machine",
        )
    return Finding("dialled by others", "good", f"listens on {listed}")


def _ips(addresses: Iterable[str]) -> list[IpAddress]:
    return [ip for ip in map(ip_of, addresses) if ip is not None]
