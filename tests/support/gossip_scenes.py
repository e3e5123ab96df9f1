"""Scenes with py-libp2p hosts, each in a process of its own: it and hivemind cannot be imported together.

Run as a module with the name of a scene and its arguments.
"""

from __future__ import annotations

import sys
import time

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol

from swarm.admission import Invite, seal
from swarm.announcing import LENGTH_BYTES, SIGNPOST
from swarm.errors import PeerUnavailable
from swarm.identity import Identity
from swarm.monitor.feed import LATE_S, Feed
from swarm.monitor.gossip import Gossip, opened
from swarm.monitor.watching import watch
from swarm.wire.messages import RunAnnounced
from tests.support.runs import Run
from tests.unit.test_feed import Scheduler

PATIENCE_S = 100.0
WATCHERS = 15
"""More than a gossip mesh has members as it comes."""


async def put_up_signpost(gossip: Gossip, scheduler: Scheduler) -> None:
    place = RunAnnounced(
        certificate=scheduler.certificate, sent_at_s=time.time(), bootstrap=(), monitor=gossip.addresses
    )
    sealed = seal(scheduler.key, place)

    async def answer(stream: INetStream) -> None:
        await stream.write(len(sealed).to_bytes(LENGTH_BYTES, "little") + sealed)

    gossip.host.set_stream_handler(TProtocol(SIGNPOST), answer)


def many_watchers() -> None:
    """Everybody hears the scheduler, ignores others, and counts them by what is wrong."""
    run = Run()
    scheduler = Scheduler(run, now_s=time.time())
    stranger = Scheduler(Run(), now_s=time.time())
    feeds: dict[int, Feed] = {}
    problems: list[str] = []

    async def follow(number: int, invite: Invite) -> None:
        def notice(feed: Feed, problem: str) -> None:
            feeds[number] = feed
            problems.extend([problem] if problem else [])

        await watch(invite, notice)

    def is_enough(feed: Feed) -> bool:
        return all(feed.counts[kind] > 0 for kind in ("taken", "forged", "repeated", "late"))

    async def body() -> None:
        async with opened(run.config.fingerprint) as gossip, trio.open_nursery() as nursery:
            await put_up_signpost(gossip, scheduler)
            invite = Invite(
                run_name="test",
                fingerprint=run.config.fingerprint,
                admin_public_key=run.admin.public_key,
                roles=("host",),
                uses=1,
                expires_at_s=time.time() + 3600,
                nonce=b"",
                bootstrap=gossip.addresses,
            )
            for number in range(WATCHERS):
                nursery.start_soon(follow, number, invite)
            with trio.fail_after(PATIENCE_S):
                step = 0
                while len(feeds) < WATCHERS or not all(map(is_enough, feeds.values())):
                    now_s, step = time.time(), step + 1
                    await gossip.publish(scheduler.metrics(now_s, step))
                    await gossip.publish(stranger.metrics(now_s, step + 1000))
                    await gossip.publish(scheduler.metrics(now_s - 1, step))
                    await gossip.publish(scheduler.metrics(now_s - LATE_S - 60, step))
                    await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert not problems
        for feed in feeds.values():
            assert feed.metrics is not None
            assert feed.metrics.step <= step, "a stranger was believed"

    trio.run(body)


def signpost(address: str) -> None:
    """A real daemon answers."""

    async def body() -> None:
        async with opened("of no run") as gossip:
            assert await gossip.follow_signpost(address)

    trio.run(body)


def nobody() -> None:
    """Who cannot be reached is said, with a number."""
    address = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"

    async def body() -> None:
        async with opened("of no run") as gossip:
            with pytest.raises(PeerUnavailable, match=r"\[S203\]"):
                await gossip.follow_signpost(address)

    trio.run(body)


if __name__ == "__main__":
    {each.__name__: each for each in (many_watchers, signpost, nobody)}[sys.argv[1]](*sys.argv[2:])
