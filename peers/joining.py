"""Getting into a run: everything that can be wrong with an invite, a shard or a machine turns up here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from peers.entrance import Entrance
from peers.joined import Joined
from peers.peer import Peer, Say
from swarm.admission import read_invite
from swarm.config import NodeConfig
from swarm.data.shards import Shard
from swarm.data.tokenizer import load_tokenizer
from swarm.durable import keeping
from swarm.errors import InviteInvalid
from swarm.exclusive import exclusive
from swarm.model.blueprint import layout
from swarm.net.allreduce import StrictRounds
from swarm.net.relayed import kept_slot
from swarm.training.compute import Compute
from swarm.training.device import Device
from swarm.wire.payloads import PayloadRules


@contextlib.asynccontextmanager
async def opened(invite_text: str, node: NodeConfig, data: Path | None, say: Say) -> AsyncIterator[Peer]:
    """Join a run.

    Args:
        invite_text: as the admin sent it.
        node: this machine's configuration.
        data: the private shard; None to host only.
        say: shows people what happens.

    Raises:
        SwarmError: with the number of what is wrong.
    """
    invite = read_invite(invite_text, time.time())
    with exclusive(node.state_dir, "stop it, or give this one another --state-dir"):
        entrance = await Entrance.found(invite, node, say)
        compute = Compute(node.threads)
        try:
            joined = await entrance.admission(invite_text)
            reach = await entrance.reach(joined)
            config = joined.config
            shard = await asyncio.to_thread(_open_shard, joined, node, data, say)
            model_layout = await asyncio.to_thread(layout, config)
            device = Device(node.device, config.numerics.precision)
            if device.problem:
                say(device.problem)
            shape = (config.batch.microbatch_sequences, config.data.context_tokens, model_layout.hidden_size)
            entrance.endpoint.become_member(joined.certificate, PayloadRules(shape, config.numerics.boundary_codecs))
            rounds = await StrictRounds.create(entrance.p2p, entrance.traffic)
            async with kept_slot(entrance.p2p, entrance.endpoint, reach.relay, say):
                directory = await entrance.directory(joined)
                await entrance.endpoint.start()
                yield Peer(
                    node,
                    joined,
                    entrance.endpoint,
                    directory,
                    rounds,
                    compute,
                    device,
                    model_layout,
                    shard,
                    await entrance.addresses(),
                    say,
                    keepsake=entrance.keepsake,
                    traffic=entrance.traffic,
                    reach=reach,
                )
                await directory.close()
                await rounds.close()
        finally:
            await entrance.endpoint.close()
            compute.close()


def _open_shard(joined: Joined, node: NodeConfig, data: Path | None, say: Say) -> Shard | None:
    if data is None:
        if joined.roles == ("owner",):
            raise InviteInvalid("this invite is for a data owner, but no shard was given", "add --data PATH")
        return None
    if "owner" not in joined.roles:
        raise InviteInvalid("this invite is for a host, but a shard was given", "ask for an owner's invite")
    path = None
    if joined.tokenizer:
        path = node.state_dir / "tokenizer.json"
        with keeping(path) as file:
            file.write(joined.tokenizer)
    say(f"tokenising {data}")
    tokenizer = load_tokenizer(joined.config, path)
    return Shard.open(joined.config, data, node.state_dir / "shards", tokenizer)
