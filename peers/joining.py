"""Getting into a run: everything that can be wrong with an invite, a shard or a machine turns up here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from peers.peer import Joined, Peer, Say
from swarm.admission import Certificate, Invite, Membership, read_invite, unseal
from swarm.config import NodeConfig, RunConfig
from swarm.data.shards import Shard
from swarm.data.tokenizer import load_tokenizer
from swarm.errors import InviteInvalid, NetworkError, RunMismatch
from swarm.exclusive import exclusive
from swarm.identity import Identity
from swarm.model.blueprint import layout
from swarm.net.allreduce import StrictRounds
from swarm.net.directory import Directory
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.training.compute import Compute
from swarm.training.device import Device
from swarm.wire.messages import Admit, Admitted
from swarm.wire.payloads import PayloadRules


@contextlib.asynccontextmanager
async def opened(invite_text: str, node: NodeConfig, data: Path | None, say: Say) -> AsyncIterator[Peer]:
    """Join a run: everything that can be wrong with an invite, a shard or a machine turns up here.

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
        identity_path = node.state_dir / "identity.key"
        identity = Identity.load_or_create(identity_path)
        say("starting the network daemon")
        p2p = await start_daemon(identity_path, node.listen_host, node.listen_port, invite.bootstrap)
        transport = Libp2pTransport(p2p)
        membership = Membership(invite.fingerprint, invite.admin_public_key)
        endpoint = Endpoint(transport, membership, invite.fingerprint)
        compute = Compute(node.threads)
        try:
            joined = await _admitted(invite, invite_text, identity, endpoint)
            config = joined.config
            shard = await asyncio.to_thread(_open_shard, joined, node, data, say)
            model_layout = await asyncio.to_thread(layout, config)
            device = Device(node.device, config.numerics.precision)
            shape = (config.batch.microbatch_sequences, config.data.context_tokens, model_layout.hidden_size)
            endpoint.become_member(joined.certificate, PayloadRules(shape, config.numerics.boundary_codec))
            rounds = await StrictRounds.create(p2p)
            directory = await Directory.create(
                p2p, identity, membership, config.fingerprint, joined.certificate, invite.bootstrap
            )
            await endpoint.start()
            addresses = tuple(str(address) for address in await p2p.get_visible_maddrs())
            yield Peer(node, joined, endpoint, directory, rounds, compute, device, model_layout, shard, addresses, say)
            await directory.close()
            await rounds.close()
        finally:
            await endpoint.close()
            compute.close()


async def _admitted(invite: Invite, text: str, identity: Identity, endpoint: Endpoint) -> Joined:
    """Show the invite to the schedulers it names, one after the other."""
    problem: NetworkError | None = None
    for address in invite.bootstrap:
        scheduler = address.rpartition("/p2p/")[2]
        try:
            reply, tokenizer = await endpoint.request(scheduler, Admit(invite=text))
        except NetworkError as error:
            problem = error
            continue
        if not isinstance(reply, Admitted):
            continue
        config = RunConfig.from_json(reply.run_json)
        if config.fingerprint != invite.fingerprint:
            raise RunMismatch(
                f"the scheduler's run is {config.fingerprint[:12]}, the invite's {invite.fingerprint[:12]}",
                "ask the admin for a new invite",
            )
        certificate = unseal(reply.certificate, Certificate)[0]
        return Joined(invite, identity, reply.certificate, certificate.roles, config, tokenizer)
    if problem is not None:
        raise problem
    raise InviteInvalid("the invite names no scheduler that answers", "ask the run's admin for a new invite")


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
        path.write_bytes(joined.tokenizer)
    say(f"tokenising {data}")
    tokenizer = load_tokenizer(joined.config, path)
    return Shard.open(joined.config, data, node.state_dir / "shards", tokenizer)
