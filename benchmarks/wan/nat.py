"""Peers behind routers that translate addresses, each pair in a network of its own. Needs root, Linux and iptables.

outside: bridge ── namespaces of public programs
            └── router's namespace (masquerades, lets nothing in): bridge ── peers' namespaces
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.wan.namespaces import add_space, ip, run_tool
from swarm.errors import ConfigError

_PUBLIC = "50.60.70"
"""libp2p has to take it for a part of the Internet, which it does not with the addresses that are kept for examples."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a program runs.

    Attributes:
        address: its own, which is a private one behind a router.
        outside: the one that others see.
        space: its namespace.
    """

    address: str
    outside: str
    space: str

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The command that enters its namespace."""
        return ("ip", "netns", "exec", self.space)


@contextlib.contextmanager
def behind_routers(public: Sequence[str], routers: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Spot]]:
    """Make namespaces; leaving removes them.

    Args:
        public: names of programs with an address of their own.
        routers: names of programs by the router that they are behind.

    Raises:
        ConfigError: not root.
        RunError: the kernel refuses.
    """
    if os.geteuid() != 0:
        raise ConfigError("network namespaces need root", "run this as root")
    prefix = f"nat{os.getpid()}"
    outside = f"{prefix}-out"
    spaces = [outside]
    try:
        _space(outside)
        _bridge(outside, "wide")
        spots = {}
        for number, name in enumerate(public):
            address = f"{_PUBLIC}.{number + 1}"
            spots[name] = Spot(address, address, f"{prefix}-p{number}")
            spaces.append(spots[name].space)
            _plug_in(outside, "wide", f"public{number}", spots[name])
        for number, names in enumerate(routers.values()):
            router, wan, lan = f"{prefix}-r{number}", f"{_PUBLIC}.{101 + number}", f"192.168.{number + 1}"
            spaces.append(router)
            _router(outside, router, number, wan, lan)
            for place, name in enumerate(names):
                spots[name] = Spot(f"{lan}.{place + 2}", wan, f"{prefix}-r{number}h{place}")
                spaces.append(spots[name].space)
                _plug_in(router, "lan", f"port{place}", spots[name])
                ip("-n", spots[name].space, "route", "add", "default", "via", f"{lan}.1")
        yield spots
    finally:
        for space in reversed(spaces):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _space(name: str) -> None:
    add_space(name)
    ip("-n", name, "link", "set", "lo", "up")


def _bridge(space: str, name: str) -> None:
    ip("-n", space, "link", "add", "name", name, "type", "bridge")
    ip("-n", space, "link", "set", name, "up")


def _cable(space: str, bridge: str, port: str, other: str, name: str) -> None:
    """Between a bridge and another namespace."""
    ip("-n", space, "link", "add", port, "type", "veth", "peer", "name", name, "netns", other)
    ip("-n", space, "link", "set", port, "master", bridge)
    ip("-n", space, "link", "set", port, "up")
    ip("-n", other, "link", "set", name, "up")


def _router(outside: str, router: str, number: int, wan: str, lan: str) -> None:
    _space(router)
    _cable(outside, "wide", f"router{number}", router, "wan")
    ip("-n", router, "addr", "add", f"{wan}/24", "dev", "wan")
    _bridge(router, "lan")
    ip("-n", router, "addr", "add", f"{lan}.1/24", "dev", "lan")
    inside = ("ip", "netns", "exec", router)
    run_tool(*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    run_tool(*inside, "iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "wan", "-j", "MASQUERADE")
    for chain in ("FORWARD", "INPUT"):
        rule = (*inside, "iptables", "-A", chain, "-i", "wan")
        run_tool(*rule, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
        run_tool(*rule, "-j", "DROP")


def _plug_in(space: str, bridge: str, port: str, spot: Spot) -> None:
    _space(spot.space)
    _cable(space, bridge, port, spot.space, "line")
    ip("-n", spot.space, "addr", "add", f"{spot.address}/24", "dev", "line")
