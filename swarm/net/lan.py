"""Finding a run on the local network by multicast DNS: its scheduler announces addresses, sealed.

py-libp2p's own mDNS announces the addresses of one host under a random name: no run, no seal, nothing of the daemon.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

from zeroconf import Error, IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from swarm.admission import Membership
from swarm.announcing import announced
from swarm.wire.messages import RunAnnounced

LAN_REFUSED = (OSError, Error)
"""No network, or one without multicast."""
SERVICE = "_swarm-run._tcp.local."
LOOK_S = 3.0
"""Whoever is there answers within a second; a busy machine takes longer."""
_PIECE_BYTES = 240
"""A DNS text of 255 bytes holds so much and its name."""
_MOST_BYTES = 4096
_MOST_SERVICES = 64
_INFO_MS = 2000
_NAME_CHARACTERS = 16


class Announced:
    """What we say on the LAN until it is closed.

    Args:
        fingerprint: of the run.
        peer_id: of its scheduler.
        interfaces: addresses of the interfaces to use; all of this machine without any.
    """

    def __init__(self, fingerprint: str, peer_id: str, interfaces: Sequence[str] = ()) -> None:
        self._name = f"{fingerprint[:_NAME_CHARACTERS]}-{peer_id[-_NAME_CHARACTERS:]}.{SERVICE}"
        self._zeroconf = _opened(interfaces)
        self._is_there = False

    def say(self, sealed: bytes, address: str) -> None:
        """From now on, a sealed `RunAnnounced`.

        Args:
            address: the scheduler's first, `/ip4/…/tcp/…`: for those who know DNS only, and no service is without one.
        """
        host, port = address.split("/")[2], int(address.split("/")[4])
        info = ServiceInfo(
            SERVICE,
            self._name,
            port,
            properties=_texts(sealed),
            server=f"{self._name.split('.')[0]}.local.",
            addresses=[socket.inet_aton(host)],
        )
        if self._is_there:
            self._zeroconf.update_service(info)
        else:
            self._zeroconf.register_service(info)
        self._is_there = True

    def close(self) -> None:
        """Say that it is over."""
        self._zeroconf.close()


def found(membership: Membership, fingerprint: str, look_s: float = LOOK_S) -> tuple[RunAnnounced, ...]:
    """What schedulers of a run say on the LAN now, the newest first; nothing where there is no network.

    Args:
        membership: of the run, as the invite names it: others cannot send us anywhere.
        look_s: how long to listen, where nobody answers before.
    """
    heard: dict[str, RunAnnounced] = {}
    is_heard = threading.Event()

    def notice(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed or len(heard) >= _MOST_SERVICES:
            return
        if not name.startswith(fingerprint[:_NAME_CHARACTERS]):
            return
        info = zeroconf.get_service_info(service_type, name, _INFO_MS)
        genuine = None if info is None else announced(membership, sealed_of(info.properties), time.time())
        if genuine is not None and isinstance(genuine[0], RunAnnounced):
            heard[name] = genuine[0]
            is_heard.set()

    with contextlib.suppress(*LAN_REFUSED):
        zeroconf = _opened(())
        try:
            ServiceBrowser(zeroconf, SERVICE, handlers=[notice])
            is_heard.wait(look_s)
        finally:
            zeroconf.close()
    return tuple(sorted(heard.values(), key=lambda each: -each.sent_at_s))


def sealed_of(texts: dict[bytes, bytes | None]) -> bytes:
    """The bytes that `_texts` cut into pieces; as many as there are in a row."""

    def pieces() -> Iterator[bytes]:
        for number in range(_MOST_BYTES // _PIECE_BYTES):
            piece = texts.get(b"s%d" % number)
            if piece is None:
                return
            yield piece

    return b"".join(pieces())


def _texts(sealed: bytes) -> dict[str, bytes]:
    pieces = [sealed[start : start + _PIECE_BYTES] for start in range(0, len(sealed), _PIECE_BYTES)]
    return {f"s{number}": piece for number, piece in enumerate(pieces)}


def _opened(interfaces: Sequence[str]) -> Zeroconf:
    if interfaces:
        return Zeroconf(interfaces=list(interfaces), ip_version=IPVersion.V4Only)
    return Zeroconf(ip_version=IPVersion.V4Only)
