"""Peers in network namespaces of their own, each behind a line of a stated rate. Needs root and Linux.

hub namespace: bridge ── veth ── peer's namespace
                      ▲        ▲
         tbf: peer's downlink  tbf: peer's uplink
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import ConfigError, RunError

_SUBNET = "10.77.0"
_BURST_BYTES = 32 << 10
"""The least that a rate of 1 Gbit/s needs at the kernel's clock; more would let short transfers pass unshaped."""
_QUEUE_MS = 200
_NOBODY = "02:00:00:00:00:00"
"""A hardware address that no line has: the bridge offers such frames to everybody, and nobody takes them."""
_CONGESTION_CONTROL = "cubic"
"""Linux's default nearly everywhere. What a machine has set instead would be measured in place of the swarm: BBR, which
takes a flow's quiet moments for the length of its way, left lines that two flows shared idle a sixth of the time."""
_ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")


@dataclass(frozen=True, slots=True)
class Line:
    """A peer's own line; 0 for one without a limit."""

    up_mbit: float = 0.0
    down_mbit: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program runs.

    Attributes:
        address: that it listens on.
        space: its namespace.
        hub, port: the namespace and the name of the other end of its line.
    """

    address: str
    space: str
    hub: str
    port: str

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The command that enters its namespace."""
        return ("ip", "netns", "exec", self.space)

    def shape(self, line: Line) -> None:
        """Give its line other rates; raises RunError where the kernel refuses."""
        for where, device, mbit in ((self.space, "line", line.up_mbit), (self.hub, self.port, line.down_mbit)):
            if mbit:
                shape = ["tbf", "rate", f"{mbit}mbit", "burst", str(_BURST_BYTES), "latency", f"{_QUEUE_MS}ms"]
                run_tool("tc", "-n", where, "qdisc", "replace", "dev", device, "root", *shape)

    def lose(self, address: str) -> None:
        """From now on, what is sent from here to that address arrives nowhere, and nobody is told."""
        ip("-n", self.space, "neigh", "replace", address, "lladdr", _NOBODY, "dev", "line", "nud", "permanent")

    def loses(self, address: str) -> bool:
        """Whether what is sent from here to that address is lost."""
        return _NOBODY in ip("-n", self.space, "neigh", "show", address)

    def find(self, address: str) -> None:
        """It arrives again."""
        ip("-n", self.space, "neigh", "del", address, "dev", "line")


@contextlib.contextmanager
def shaped(lines: Mapping[str, Line]) -> Iterator[dict[str, Place]]:
    """Make namespaces, one a name; leaving removes them.

    Raises:
        ConfigError: not root.
        RunError: the kernel refuses.
    """
    if os.geteuid() != 0:
        raise ConfigError("network namespaces need root", "run this benchmark as root")
    prefix = f"sw{os.getpid()}"
    hub = f"{prefix}-hub"
    spaces = {name: f"{prefix}-{number}" for number, name in enumerate(lines)}
    try:
        add_space(hub)
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        places = {}
        for number, (name, line) in enumerate(lines.items()):
            places[name] = Place(f"{_SUBNET}.{number + 1}", spaces[name], hub, f"port{number}")
            _join(places[name])
            places[name].shape(line)
        yield places
    finally:
        for space in (*spaces.values(), hub):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _join(place: Place) -> None:
    space, hub, port = place.space, place.hub, place.port
    add_space(space)
    ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "line", "netns", space)
    ip("-n", hub, "link", "set", port, "master", "bridge")
    ip("-n", hub, "link", "set", port, "up")
    ip("-n", space, "addr", "add", f"{place.address}/24", "dev", "line")
    ip("-n", space, "link", "set", "line", "up")
    ip("-n", space, "link", "set", "lo", "up")


def add_space(name: str) -> None:
    """A network namespace in which TCP behaves as it does nearly everywhere."""
    ip("netns", "add", name)
    allowed = _ALLOWED.read_text()
    _ALLOWED.write_text(f"{allowed.strip()} {_CONGESTION_CONTROL}")  # namespaces choose from what the machine allows
    try:
        run_tool("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={_CONGESTION_CONTROL}")
    finally:
        _ALLOWED.write_text(allowed)


def ip(*arguments: str) -> str:
    return run_tool("ip", *arguments)


def run_tool(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{' '.join(command)} failed: {done.stderr.strip()}", "see whether the kernel has it")
    return done.stdout
