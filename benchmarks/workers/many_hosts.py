"""Several hosts in one process: what each needs besides the libraries is its own, a daemon, a key and a compute thread.

Takes the arguments of `swarm join` that a fleet gives to a host, and `--count`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

import uvloop

from peers.joining import opened
from peers.peer import Peer
from swarm.config import NodeConfig
from swarm.signals import until_stopped
from swarm.telemetry import Teller


def main() -> None:
    """Until the run is finished, or SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["join"])
    parser.add_argument("invite", type=Path)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--json", action="store_true", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--count", type=int, required=True)
    asked = parser.parse_args()
    teller = Teller(asked.json)
    uvloop.run(until_stopped(_run(asked, teller), lambda: False))


async def _run(asked: argparse.Namespace, teller: Teller) -> None:
    invite = asked.invite.read_text(encoding="utf-8")
    async with contextlib.AsyncExitStack() as stack:
        peers: list[Peer] = []
        for number in range(asked.count):
            node = NodeConfig(state_dir=asked.state_dir / str(number), threads=1, device=asked.device)
            peers.append(await stack.enter_async_context(opened(invite, node, None, lambda text: None)))
        teller.tell({"event": "joined", "peers": [peer.endpoint.peer_id for peer in peers]})
        async with asyncio.TaskGroup() as tasks:
            for peer in peers:
                tasks.create_task(peer.run())


if __name__ == "__main__":
    main()
