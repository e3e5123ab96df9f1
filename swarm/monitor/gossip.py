"""The one module that knows py-libp2p: a host that gossips announcements of one run. Runs in a trio loop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import trio
from libp2p import new_host
from libp2p.abc import IHost, ISubscriptionAPI
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from swarm.announcing import LENGTH_BYTES, MAX_BYTES, SIGNPOST
from swarm.errors import PeerUnavailable, PortTaken

_GOSSIPSUB = TProtocol("/meshsub/1.1.0")
MOST_WATCHERS = 256
"""Each hears the scheduler's monitor itself: a publisher takes nothing from others, so no forgery spreads."""
_HEARTBEAT_S = 1
_READY_S = 30.0
_CALL_S = 15.0

logging.getLogger("libp2p").addHandler(logging.NullHandler())
logging.getLogger("libp2p").propagate = False  # every connection that ends is an error to it; ours are told by us


@dataclass(slots=True)
class Gossip:
    """One host and the run's topic; made with `opened`."""

    host: IHost
    _pubsub: Pubsub
    _topic: str

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, with its id."""
        return tuple(str(address) for address in self.host.get_addrs())

    async def publish(self, data: bytes) -> None:
        """Give an announcement to whoever is connected."""
        with trio.move_on_after(_CALL_S):
            await self._pubsub.publish(self._topic, data)

    async def subscribe(self) -> ISubscriptionAPI:
        """What the others publish from now on: messages with `data`."""
        return await self._pubsub.subscribe(self._topic)

    async def connect(self, address: str) -> None:
        """Dial a peer by its multiaddress with id; raises PeerUnavailable."""
        with _unavailable(address):
            await self.host.connect(info_from_p2p_addr(Multiaddr(address)))

    async def follow_signpost(self, address: str) -> bytes:
        """What the scheduler's daemon at a multiaddress says about its monitor.

        Raises:
            PeerUnavailable: it cannot be reached, or says nothing.
        """
        await self.connect(address)
        with _unavailable(address):
            stream = await self.host.new_stream(info_from_p2p_addr(Multiaddr(address)).peer_id, [TProtocol(SIGNPOST)])
            try:
                length = int.from_bytes(await _exactly(stream, LENGTH_BYTES), "little")
                if length > MAX_BYTES:
                    raise EOFError("it says too much")
                return await _exactly(stream, length)
            finally:
                await stream.reset()


async def _exactly(stream: object, num_bytes: int) -> bytes:
    found = b""
    while len(found) < num_bytes:
        piece: bytes = await stream.read(num_bytes - len(found))  # type: ignore[attr-defined]
        if not piece:
            raise EOFError("the stream ended early")
        found += piece
    return found


@contextlib.contextmanager
def _unavailable(address: str):  # type: ignore[no-untyped-def]
    """py-libp2p lets errors of every kind through, those of its own code as well."""
    remedy = "check the way to it, and that its scheduler runs"
    try:
        with trio.fail_after(_CALL_S):
            yield
    except Exception as error:  # noqa: BLE001
        words = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise PeerUnavailable(f"{address} cannot be reached ({words})", remedy) from None


@contextlib.asynccontextmanager
async def opened(fingerprint: str, listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",)) -> AsyncIterator[Gossip]:
    """Start a host with a key of its own.

    Args:
        fingerprint: of the run; names the topic.
        listen: multiaddresses to listen on.

    Raises:
        PortTaken: it cannot listen there.
    """
    addresses = [Multiaddr(each) for each in listen]
    host = new_host(key_pair=create_new_key_pair(), listen_addrs=addresses)
    router = GossipSub(
        [_GOSSIPSUB], degree=MOST_WATCHERS, degree_low=1, degree_high=MOST_WATCHERS, heartbeat_interval=_HEARTBEAT_S
    )
    pubsub = Pubsub(host, router)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(host.run(listen_addrs=addresses))
        except OSError as error:
            raise PortTaken(f"cannot listen on {', '.join(listen)} ({error})", "choose another port") from None
        await stack.enter_async_context(background_trio_service(router))
        await stack.enter_async_context(background_trio_service(pubsub))
        with trio.fail_after(_READY_S):
            await pubsub.wait_until_ready()
        yield Gossip(host, pubsub, f"/swarm/{fingerprint}/announcements")
