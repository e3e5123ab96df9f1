"""Follows a run's announcements: finds where they are gossiped, connects, and looks again when they stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial

import trio

from swarm.admission import Invite, Membership
from swarm.announcing import announced
from swarm.errors import PeerUnavailable
from swarm.monitor.display import SILENT_S
from swarm.monitor.feed import Feed
from swarm.monitor.gossip import Gossip, opened
from swarm.net import lan
from swarm.wire.messages import RunAnnounced

_AGAIN_S = 2.0
_ENDED = "finished"

Notice = Callable[[Feed, str], None]
"""Hears of every announcement that was taken, and of a problem where nothing comes."""


async def watch(invite: Invite, notice: Notice) -> None:
    """Until the run is finished, or it is cancelled.

    Args:
        invite: names the run, its admin, and where its schedulers were.
        notice: hears what happens.
    """
    feed = Feed(Membership(invite.fingerprint, invite.admin_public_key))
    async with opened(invite.fingerprint) as gossip:
        messages = await gossip.subscribe()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_connected, invite, gossip, feed, notice)
            async for each in messages:
                if feed.take(each.data, time.time()) == "taken":
                    notice(feed, "")
                    if feed.metrics is not None and feed.metrics.phase == _ENDED:
                        break
            nursery.cancel_scope.cancel()


async def watch_until_stopped(invite: Invite, notice: Notice) -> None:
    """As `watch`, until SIGTERM or Ctrl+C."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            await watch(invite, notice)
            nursery.cancel_scope.cancel()


async def _keep_connected(invite: Invite, gossip: Gossip, feed: Feed, notice: Notice) -> None:
    while True:
        if time.time() - feed.heard_at_s > SILENT_S:
            problem = await _connected(invite, gossip, feed.membership)
            if problem:
                notice(feed, problem)
            else:
                await trio.sleep(SILENT_S - _AGAIN_S)  # for the first words
        await trio.sleep(_AGAIN_S)


async def _connected(invite: Invite, gossip: Gossip, membership: Membership) -> str:
    """Why nobody could be reached; empty where somebody was."""
    problem = "the invite names nobody"
    for address in invite.bootstrap:
        try:
            found = announced(membership, await gossip.follow_signpost(address), time.time())
        except PeerUnavailable as error:
            problem = error.problem
            continue
        if found is None or not isinstance(found[0], RunAnnounced):
            problem = f"{address} shows a signpost that is forged"
            continue
        problem = await _reached(gossip, found[0])
        if not problem:
            return ""
    look = partial(lan.found, membership, invite.fingerprint)
    for place in await trio.to_thread.run_sync(look):
        if not await _reached(gossip, place):
            return ""
    return problem


async def _reached(gossip: Gossip, place: RunAnnounced) -> str:
    problem = "the scheduler announces nothing to watchers"
    for address in place.monitor:
        try:
            await gossip.connect(address)
        except PeerUnavailable as error:
            problem = error.problem
        else:
            return ""
    return problem
