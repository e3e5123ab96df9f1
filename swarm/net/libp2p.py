"""The transport in production: hivemind's libp2p daemon, one child process, driven from our own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure, P2PDaemonError

from swarm.errors import DaemonFailed, PeerUnavailable, PortTaken
from swarm.net.relay import Relay
from swarm.net.traffic import PIECE_BYTES, Traffic
from swarm.net.transport import CONTROL, ByteStream, StreamHandler
from swarm.wire.circuit import HOP

DAEMON_START_S = 60.0
"""hivemind's own 15 s is the most frequent complaint of its users: a busy machine needs longer."""

_READER_BYTES = 1 << 20
_ANSWER_S = 5.0


async def start_daemon(
    identity_path: Path,
    host: str,
    port: int,
    initial_peers: Sequence[str],
    announce: Sequence[str] = (),
    relay: Relay | None = None,
) -> P2P:
    """Start the daemon with our identity, listening on TCP only.

    Args:
        identity_path: the key file of `swarm.identity`.
        host, port: to listen on; port 0 lets the system choose.
        initial_peers: multiaddresses to connect to first.
        announce: multiaddresses that others are told; where the daemon listens if empty.
        relay: ours, not open yet; without one nobody is relayed for.

    Raises:
        PortTaken: another process listens there.
        PeerUnavailable: none of `initial_peers` can be reached.
        DaemonFailed: the daemon did not start, with its own last words.
    """
    if port:
        _check_port_free(host, port)
    try:
        p2p = await P2P.create(
            initial_peers=list(initial_peers) or None,
            identity_path=str(identity_path),
            host_maddrs=[f"/ip4/{host}/tcp/{port}"],
            announce_maddrs=list(announce) or None,
            startup_timeout=DAEMON_START_S,
            check_if_identity_free=False,
            auto_nat=False,
            nat_port_map=False,
            use_relay=False,
            force_reachability="private",  # or libp2p may start a relay again, in place of ours
        )
        # The daemon's own relay serves whoever comes, whatever `use_relay` says.
        await p2p.add_binary_stream_handler(HOP, (relay or Relay()).serve)
        return p2p
    except (P2PDaemonError, ControlFailure) as error:
        words = str(error).strip() or type(error).__name__
        if "bootstrap peers" in words:
            raise PeerUnavailable(
                "none of the run's known members can be reached", "check the network, and whether the run goes on"
            ) from None
        raise DaemonFailed(f"the libp2p daemon did not start ({words})", "check the address and free memory") from None


async def answers(addresses: Sequence[str], patience_s: float = _ANSWER_S) -> bool:
    """Whether a daemon with the key that an address names is at one of them now: asked by a nameless daemon.

    Args:
        addresses: multiaddresses that end in the peer's id.
        patience_s: for starting that daemon and its dialling together.
    """
    try:
        p2p = await P2P.create(
            initial_peers=list(addresses),
            dht_mode="client",
            no_listen=True,
            startup_timeout=patience_s,
            auto_nat=False,
            nat_port_map=False,
            use_relay=False,
        )
    except (P2PDaemonError, ControlFailure):
        return False
    await p2p.shutdown()
    return True


def _check_port_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(f"cannot listen on {host}:{port} ({error.strerror})", "choose another --port") from None


class Libp2pTransport:
    """`Transport` over a running daemon.

    Args:
        traffic: counts what goes through the streams, and paces all but control.
    """

    def __init__(self, p2p: P2P, traffic: Traffic | None = None) -> None:
        self.p2p = p2p
        self.traffic = traffic or Traffic()

    @property
    def peer_id(self) -> str:
        """Our own, base58."""
        return str(self.p2p.peer_id.to_base58())

    async def open(self, peer_id: str, lane: str) -> ByteStream:
        """See `Transport.open`."""
        try:
            _, reader, writer = await self.p2p.call_binary_stream_handler(PeerID.from_base58(peer_id), lane)
        except (ControlFailure, P2PDaemonError, OSError, EOFError, asyncio.IncompleteReadError) as error:
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PeerUnavailable(f"{peer_id} cannot be reached ({words})", "check that it runs") from None
        return _Stream(peer_id, lane, reader, writer, self.traffic)

    async def serve(self, lane: str, handler: StreamHandler) -> None:
        """See `Transport.serve`."""

        async def accept(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await handler(_Stream(info.peer_id.to_base58(), lane, reader, writer, self.traffic))

        await self.p2p.add_binary_stream_handler(lane, accept)

    async def close(self) -> None:
        """See `Transport.close`."""
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(DAEMON_START_S):
                await self.p2p.shutdown()


class _Stream:
    """One stream. Where the owner allows a rate only, what is written waits here and a task feeds it to the daemon."""

    def __init__(
        self, remote_id: str, lane: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, traffic: Traffic
    ) -> None:
        self._remote_id = remote_id
        self._is_paced = lane != CONTROL
        self._traffic = traffic
        self._reader = reader
        self._writer = writer
        self._waiting: deque[memoryview] = deque()
        self._feeding: asyncio.Task[None] | None = None
        # asyncio pauses the socket at twice its 64 KiB default, which costs a wake-up every 128 KiB of a tensor.
        self._reader._limit = _READER_BYTES  # type: ignore[attr-defined]

    @property
    def remote_id(self) -> str:
        return self._remote_id

    async def read_exactly(self, num_bytes: int) -> bytes:
        try:
            found = await self._reader.readexactly(num_bytes)
        except (asyncio.IncompleteReadError, OSError):
            raise self._gone() from None
        if self._is_paced:
            await self._traffic.receive(num_bytes)
        else:
            self._traffic.received_bytes += num_bytes
        return found

    def write(self, *parts: bytes | memoryview) -> None:
        if self._writer.is_closing():
            return
        if self._feeding is None and not (self._is_paced and self._traffic.up.bytes_per_s):
            self._writer.writelines(parts)
            self._traffic.sent_bytes += sum(memoryview(part).nbytes for part in parts)
            return
        for part in parts:
            view = memoryview(part).cast("B")
            self._waiting.extend(view[start : start + PIECE_BYTES] for start in range(0, len(view), PIECE_BYTES))
        if self._feeding is None:
            self._feeding = asyncio.create_task(self._feed())

    async def drain(self) -> None:
        if self._feeding is not None:
            await asyncio.wait([self._feeding])
        if self._writer.is_closing():
            raise self._gone()
        try:
            await self._writer.drain()
        except OSError:
            raise self._gone() from None

    def abort(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
        self._writer.transport.abort()

    async def _feed(self) -> None:
        """Until nothing waits; a stream that broke says so to whoever drains it."""
        try:
            while self._waiting and not self._writer.is_closing():
                piece = self._waiting.popleft()
                await self._traffic.send(len(piece))
                self._writer.write(piece)
                await self._writer.drain()
        except OSError:
            self._writer.transport.abort()
        finally:
            self._feeding = None

    def _gone(self) -> PeerUnavailable:
        return PeerUnavailable(f"the stream to {self._remote_id} broke", "it is opened again when needed")
