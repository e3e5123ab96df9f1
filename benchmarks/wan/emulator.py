"""A network on this machine as a file describes it: every peer in a namespace of its own. Needs root and Linux.

The kernel's own shaper has no delay where `netem` is missing, so a process of ours carries every packet
(`benchmarks.wan.switch`), at the times that `benchmarks.wan.wires` says. `measured` checks it over real sockets.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.wan.namespaces import add_space
from benchmarks.wan.wires import Network
from benchmarks.workers.lines import Worker
from swarm.errors import ConfigError

_ANSWER_S = 60.0
_PROBE_BYTES_S = 3.0
"""A check sends what the way carries in so many seconds."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer is.

    Attributes:
        address: that its programs listen on.
        wrapper: the command that enters its namespace.
    """

    address: str
    wrapper: tuple[str, ...]


@dataclass(slots=True)
class Emulator:
    """A running network.

    Attributes:
        sites: by peer.
    """

    network: Network
    sites: dict[str, Site]
    _switch: Worker

    def change(self, network: Network) -> None:
        """Other rates, delays or partitions from now on; the peers are the same."""
        self.network = network
        self._switch.ask({"do": "change", "network": network.to_json()}, _ANSWER_S)

    def measured(self, source: str, target: str, mbit: float) -> tuple[float, float]:
        """One way over real TCP.

        Args:
            mbit: that it should have.

        Returns:
            Half a round trip in milliseconds, and megabits a second of a long transfer.
        """
        workers = {name: Worker("benchmarks.wan.probe", wrapper=self.sites[name].wrapper) for name in (source, target)}
        try:
            serving = {"do": "serve", "address": self.sites[target].address}
            port = workers[target].ask(serving, _ANSWER_S)["port"]
            num_bytes = int(mbit * 1e6 / 8 * _PROBE_BYTES_S)
            asked = {"do": "measure", "address": serving["address"], "port": port, "bytes": num_bytes}
            found = workers[source].ask(asked, _ANSWER_S)
        finally:
            for worker in workers.values():
                worker.close()
        return found["round_trip_s"] * 500, found["bytes_per_s"] * 8 / 1e6


@contextlib.contextmanager
def emulated(network: Network, seed: int = 0) -> Iterator[Emulator]:
    """Make the namespaces and start carrying packets; leaving removes them.

    Raises:
        ConfigError: not root.
        RunError: the kernel refuses.
    """
    if os.geteuid() != 0:
        raise ConfigError("network namespaces need root", "run this benchmark as root")
    spaces = {name: f"wan{os.getpid()}-{number}" for number, name in enumerate(network.lines)}
    with contextlib.ExitStack() as stack:
        for space in spaces.values():
            add_space(space)
            stack.callback(subprocess.run, ["ip", "netns", "del", space], capture_output=True, check=False)
        switch = Worker("benchmarks.wan.switch")
        stack.callback(switch.close)
        start = {"do": "start", "network": network.to_json(), "spaces": spaces, "seed": seed}
        addresses = switch.ask(start, _ANSWER_S)["addresses"]
        sites = {name: Site(addresses[name], ("ip", "netns", "exec", space)) for name, space in spaces.items()}
        yield Emulator(network, sites, switch)
