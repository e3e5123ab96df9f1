"""The emulator's process: one TUN device a peer, each in the peer's network namespace; packets pass between them.

{"do": "start", "network", "spaces": {peer: namespace}, "seed"}  -> {"addresses": {peer: address}}
{"do": "change", "network"}                                      -> {"dropped"}
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import selectors
import struct
import sys
import time

from benchmarks.wan.namespaces import ip
from benchmarks.wan.wires import STRETCHES, Network, Packet, Wires
from benchmarks.workers.lines import Line, answer

_SUBNET = "10.78.0"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MTU = 1500
"""Large packets, so that a process in Python keeps up with hundreds of megabits a second."""
_TARGET_BYTE = 19
"""Where an IPv4 header has the last byte of the target's address."""


class Switch:
    """Moves packets between TUN devices at the times that `Wires` says."""

    def __init__(self, network: Network, spaces: dict[str, str], seed: int) -> None:
        self.wires = Wires(network, seed)
        self.addresses = {name: f"{_SUBNET}.{number + 1}" for number, name in enumerate(spaces)}
        self._names = {number + 1: name for number, name in enumerate(spaces)}
        self._files = {name: _open_tun(space, self.addresses[name]) for name, space in spaces.items()}
        self._pending: list[tuple[float, int, Packet, bytes]] = []
        self._count = 0
        self._ready = selectors.DefaultSelector()
        for name, file in self._files.items():
            self._ready.register(file, selectors.EVENT_READ, name)

    def run(self) -> None:
        """Until standard input ends."""
        self._ready.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            for key, _ in self._ready.select(self._pause_s()):
                if key.data is None:
                    if not self._command():
                        return
                else:
                    self._take(key.data, key.fd)
            self._deliver()

    def _pause_s(self) -> float | None:
        return max(0.0, self._pending[0][0] - time.monotonic()) if self._pending else None

    def _command(self) -> bool:
        text = sys.stdin.readline()
        if text:
            self.wires.network = Network.from_json(json.loads(text)["network"])
            answer({"dropped": self.wires.dropped})
        return bool(text)

    def _take(self, source: str, file: int) -> None:
        """Every packet that waits in a device."""
        while True:
            try:
                packet = os.read(file, 1 << 16)
            except BlockingIOError:
                return
            target = self._names.get(packet[_TARGET_BYTE]) if packet[0] >> 4 == 4 else None
            if target is None:
                continue
            self._send_on(Packet(source, target, len(packet)), packet, time.monotonic())

    def _send_on(self, packet: Packet, content: bytes, now_s: float) -> None:
        at_s = self.wires.send(packet, now_s)
        if at_s is not None:
            self._count += 1
            heapq.heappush(self._pending, (at_s, self._count, packet, content))

    def _deliver(self) -> None:
        """Whatever is due passes on, or arrives."""
        while self._pending and self._pending[0][0] <= time.monotonic():
            at_s, _, packet, content = heapq.heappop(self._pending)
            if packet.stretch < STRETCHES:
                self._send_on(packet, content, at_s)
                continue
            try:
                os.write(self._files[packet.target], content)
            except OSError:
                self.wires.dropped += 1  # the device is down, or its queue is full


def _open_tun(space: str, address: str) -> int:
    """A device that leads into a namespace, with this address."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"wan{address.rpartition('.')[2]}"
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    ip("link", "set", name, "netns", space)
    ip("-n", space, "addr", "add", f"{address}/24", "dev", name)
    ip("-n", space, "link", "set", name, "mtu", str(_MTU), "txqueuelen", "2000", "up")
    ip("-n", space, "link", "set", "lo", "up")
    return file


def main() -> None:
    """Until standard input ends."""
    line: Line = json.loads(sys.stdin.readline())
    os.nice(-20)  # it stands for the network, which does not wait for a busy machine
    switch = Switch(Network.from_json(line["network"]), line["spaces"], line["seed"])
    answer({"addresses": switch.addresses})
    switch.run()


if __name__ == "__main__":
    main()
