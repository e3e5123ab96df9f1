"""Announcements between py-libp2p hosts, and to a daemon: hivemind's Go daemon and py-libp2p understand each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from swarm.identity import Identity
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.signpost import Signpost
from tests.support.scenes import play


def test_every_watcher_hears_the_scheduler_and_ignores_others() -> None:
    play("many_watchers")


def test_who_cannot_be_reached_is_said() -> None:
    play("nobody")


def test_a_real_daemon_shows_its_signpost(tmp_path: Path) -> None:
    async def body() -> None:
        Identity.generate().save(tmp_path / "key")
        p2p = await start_daemon(tmp_path / "key", "127.0.0.1", 0, [])
        try:
            await Signpost(b"that way").open(p2p)
            (address,) = await p2p.get_visible_maddrs()
            await asyncio.to_thread(play, "signpost", str(address))
        finally:
            await Libp2pTransport(p2p).close()

    asyncio.run(body())
