"""One peer of the benchmark `links`: a process, a daemon and an endpoint of its own, wherever it is started.

Reads JSON lines on standard input and answers each with one on standard output:

    {"do": "start", "address", "folder", "admin", "peers"}       -> {"peer_id", "addresses"}
    {"do": "prepare", "round", "ids", "values", "codec"}         -> {}
    {"do": "go", "round"}                                        -> {"seconds", "digest"}
    {"do": "offer", "bytes", "parts", "seed"}                    -> {}
    {"do": "fetch", "donors", "parts", "most_bytes"}             -> {"seconds", "bytes"}
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import torch
import uvloop

from benchmarks.workers.lines import serve_async
from swarm.admission import Certificate, Membership, seal
from swarm.identity import Identity
from swarm.net.allreduce import RoundPlan, StrictRounds
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.shelf import Shelf
from swarm.net.state import StateFetch
from swarm.wire.digest import digest_of
from swarm.wire.messages import FetchState, ListState

FINGERPRINT = "0" * 64
NUM_STEPS = 1
SPAN = (1, 2)
_CERTIFICATE_S = 86_400.0
_PATIENCE_S = 120.0


class Member:
    """The state between two lines."""

    _endpoint: Endpoint
    _rounds: StrictRounds
    _shelf = Shelf()

    async def start(self, line: dict[str, Any]) -> dict[str, Any]:
        """Join the others."""
        identity = Identity.generate()
        path = Path(line["folder"]) / identity.peer_id
        identity.save(path)
        admin = Identity.load(Path(line["admin"]))
        certificate = Certificate(
            fingerprint=FINGERPRINT,
            peer_id=identity.peer_id,
            roles=("host",),
            expires_at_s=time.time() + _CERTIFICATE_S,
        )
        p2p = await start_daemon(path, line["address"], 0, line["peers"])
        membership = Membership(FINGERPRINT, admin.public_key)
        self._endpoint = Endpoint(Libp2pTransport(p2p), membership, FINGERPRINT, seal(admin, certificate))
        self._endpoint.on_request(ListState, self._shelf.list)
        self._endpoint.on_request(FetchState, self._shelf.fetch)
        self._rounds = await StrictRounds.create(p2p)
        await self._endpoint.start()
        addresses = [str(address) for address in await p2p.get_visible_maddrs()]
        return {"peer_id": identity.peer_id, "addresses": addresses}

    async def prepare(self, line: dict[str, Any]) -> dict[str, Any]:
        """A round of equal members."""
        plan = RoundPlan(
            round_id=line["round"].encode(),
            members=tuple(line["ids"]),
            weights=(1.0,) * len(line["ids"]),
            fractions=(1.0,) * len(line["ids"]),
            codec=line["codec"],
            sender_timeout_s=_PATIENCE_S,
            reducer_timeout_s=2 * _PATIENCE_S,
        )
        self._rounds.prepare(plan, [torch.full((line["values"],), 0.5)])
        return {}

    async def go(self, line: dict[str, Any]) -> dict[str, Any]:
        """Run the prepared round."""
        began_s = time.perf_counter()
        averages = await self._rounds.go(line["round"].encode())
        return {"seconds": time.perf_counter() - began_s, "digest": digest_of(averages)}

    async def offer(self, line: dict[str, Any]) -> dict[str, Any]:
        """Have a state, the same for the same seed."""
        source = random.Random(line["seed"])
        parts = {name: source.randbytes(line["bytes"] // len(line["parts"])) for name in line["parts"]}
        self._shelf.put_copy(SPAN, NUM_STEPS, parts)
        return {}

    async def fetch(self, line: dict[str, Any]) -> dict[str, Any]:
        """Get it from others, checked by hash."""
        fetch = StateFetch(self._endpoint, NUM_STEPS, line["parts"], line["most_bytes"])
        began_s = time.perf_counter()
        parts = await fetch.run(line["donors"])
        return {"seconds": time.perf_counter() - began_s, "bytes": sum(map(len, parts.values()))}


async def main() -> None:
    """Answer lines until standard input ends."""
    torch.set_num_threads(1)
    member = Member()
    await serve_async(
        {
            "start": member.start,
            "prepare": member.prepare,
            "go": member.go,
            "offer": member.offer,
            "fetch": member.fetch,
        }
    )


if __name__ == "__main__":
    uvloop.run(main())
