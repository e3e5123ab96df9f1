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

from swarm.errors import ConfigError, RunError

_SUBNET = "10.77.0"
_BURST_BYTES = 32 << 10
"""The least that a rate of 1 Gbit/s needs at the kernel's clock; more would let short transfers pass unshaped."""
_QUEUE_MS = 200
_NOBODY = "02:00:00:00:00:00"
"""A hardware address that no line has: the bridge offers such frames to everybody, and nobody takes them."""


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
        ip("netns", "add", hub)
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
    ip("netns", "add", space)
    ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "line", "netns", space)
    ip("-n", hub, "link", "set", port, "master", "bridge")
    ip("-n", hub, "link", "set", port, "up")
    ip("-n", space, "addr", "add", f"{place.address}/24", "dev", "line")
    ip("-n", space, "link", "set", "line", "up")
    ip("-n", space, "link", "set", "lo", "up")


def ip(*arguments: str) -> str:
    return run_tool("ip", *arguments)


def run_tool(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{' '.join(command)} failed: {done.stderr.strip()}", "see whether the kernel has it")
    return done.stdout
