"""The monitor's loop: looks at the run's folder once a second, and gossips what it says, sealed by the scheduler."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import trio

from scheduler.dashboard.alerts import alerts
from scheduler.dashboard.folder import RunFolder
from scheduler.monitor.announcing import metrics_of, plan_of
from scheduler.run_dir import RunDir, scheduler_certificate
from swarm.admission import seal
from swarm.identity import Identity
from swarm.monitor.gossip import Gossip, opened
from swarm.net.lan import LAN_REFUSED, Announced
from swarm.wire.messages import RunAnnounced

_LOOK_S = 1.0
_LAST_WORDS, _LAST_WORDS_APART_S = 3, 0.5
_PLAN_AGAIN_S = 5.0
"""Whoever came late knows the plan after this."""

Tell = Callable[[dict[str, Any]], None]


async def announce(run_dir: RunDir, host: str, port: int, tell: Tell) -> None:
    """Until SIGTERM or Ctrl+C; then the run is looked at once more, so that watchers hear how it ended.

    Args:
        run_dir: of a scheduler that runs.
        host, port: to listen on.
        tell: hears of the addresses, and what the scheduler's signpost should say.

    Raises:
        PortTaken: it cannot listen there.
    """
    folder = await trio.to_thread.run_sync(RunFolder, run_dir)
    identity = Identity.load(run_dir.scheduler_key)
    certificate = scheduler_certificate(run_dir, folder.config, identity.peer_id)
    bootstrap = run_dir.addresses()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with opened(folder.config.fingerprint, [f"/ip4/{host}/tcp/{port}"]) as gossip:
            places = tuple(_places(gossip.addresses, bootstrap))
            place = RunAnnounced(certificate=certificate, sent_at_s=time.time(), bootstrap=bootstrap, monitor=places)
            sealed = seal(identity, place)
            tell({"event": "monitor", "addresses": list(places), "sealed": sealed.hex()})
            herald = _Herald(folder, identity, certificate, gossip)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(herald.run)
                async with _on_lan(folder.config.fingerprint, identity.peer_id, host, sealed, bootstrap[0], tell):
                    async for _ in signals:
                        break
                nursery.cancel_scope.cancel()
            await herald.part()


def _places(ours: tuple[str, ...], bootstrap: tuple[str, ...]) -> Iterator[str]:
    """Our port and id at every address that the scheduler has: it knows which of this machine's others can reach."""
    _, _, _, _, port, _, peer = ours[0].split("/")
    for ip in dict.fromkeys(address.split("/")[2] for address in bootstrap):
        yield f"/ip4/{ip}/tcp/{port}/p2p/{peer}"


@contextlib.asynccontextmanager
async def _on_lan(
    fingerprint: str, peer_id: str, host: str, sealed: bytes, address: str, tell: Tell
) -> AsyncIterator[None]:
    """Where multicast does not work, only the LAN does not hear of us."""
    interfaces = [] if host == "0.0.0.0" else [host]  # noqa: S104 - compared, not bound
    with contextlib.ExitStack() as stack:
        try:
            lan = stack.enter_context(contextlib.closing(Announced(fingerprint, peer_id, interfaces)))
            await trio.to_thread.run_sync(lan.say, sealed, address)
        except LAN_REFUSED as error:
            tell({"event": "warning", "problem": f"the run is not announced on the local network ({error})"})
        yield


@dataclass(slots=True)
class _Herald:
    """Publishes what the folder says while its scheduler leads."""

    folder: RunFolder
    identity: Identity
    certificate: bytes
    gossip: Gossip
    _plan: int = 0
    _plan_again_s: float = field(default=0.0)

    async def run(self) -> None:
        while True:
            await self.look()
            await trio.sleep(_LOOK_S)

    async def part(self) -> None:
        """Last words, several times: what is published last may still be in a queue when the host ends."""
        for _ in range(_LAST_WORDS):
            await self.look()
            await trio.sleep(_LAST_WORDS_APART_S)

    async def look(self) -> None:
        """Once."""
        view = await trio.to_thread.run_sync(self.folder.look)
        if not view.term:
            return
        now_s = time.time()
        plan = self.folder.plan
        if plan is not None and (plan["number"] != self._plan or now_s > self._plan_again_s):
            await self._publish(plan_of(view, plan, self.certificate, now_s))
            self._plan, self._plan_again_s = plan["number"], now_s + _PLAN_AGAIN_S
        await self._publish(metrics_of(view, alerts(view), self.certificate, now_s))

    async def _publish(self, body: object) -> None:
        await self.gossip.publish(seal(self.identity, body))
