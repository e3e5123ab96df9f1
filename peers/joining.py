"""Getting into a run: everything that can be wrong with an invite, a shard or a machine turns up here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from hivemind.p2p import P2P

from peers.finding import Way
from peers.joined import Joined
from peers.keepsake import Keepsake
from peers.peer import Peer, Say
from swarm.admission import Certificate, Membership, read_invite, unseal
from swarm.config import NodeConfig
from swarm.data.shards import Shard
from swarm.data.tokenizer import load_tokenizer
from swarm.durable import keeping
from swarm.errors import InviteInvalid, ProtocolError
from swarm.exclusive import exclusive
from swarm.identity import Identity
from swarm.model.blueprint import layout
from swarm.net.admitting import admitted
from swarm.net.allreduce import StrictRounds
from swarm.net.dialling import find_reach
from swarm.net.directory import Directory
from swarm.net.endpoint import Endpoint
from swarm.net.introduction import introduce
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.patience import until_reached
from swarm.net.reach import announced_behind, in_words, port_of
from swarm.net.relayed import kept_slot, reserve
from swarm.net.traffic import Traffic
from swarm.training.compute import Compute
from swarm.training.device import Device
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
        keepsake = Keepsake(node.state_dir / f"run-{invite.fingerprint[:16]}")
        bootstrap = tuple(dict.fromkeys((*invite.bootstrap, *keepsake.addresses.read())))
        is_member = keepsake.admission(invite.fingerprint) is not None
        start = partial(start_daemon, identity_path, node.listen_host, node.listen_port)
        way = Way(invite, bootstrap, start, say)
        p2p = await (until_reached(way.daemon, say) if is_member else way.daemon())
        invite, bootstrap = way.invite, way.bootstrap
        traffic = Traffic()
        membership = Membership(invite.fingerprint, invite.admin_public_key)
        if kept := keepsake.revoked():
            with contextlib.suppress(ProtocolError):  # damaged: a scheduler hands it on again
                membership.revoke(kept)

        def endpoint_on(p2p: P2P) -> Endpoint:
            return Endpoint(Libp2pTransport(p2p, traffic), membership, invite.fingerprint)

        endpoint = endpoint_on(p2p)
        compute = Compute(node.threads)
        try:
            admission = keepsake.admission(invite.fingerprint)
            if admission is None:
                admission = await admitted(invite, invite_text, endpoint)
                keepsake.keep(admission)
            endpoint.become_member(admission.certificate, None)
            ours = tuple(str(address) for address in await p2p.get_visible_maddrs())
            reach = await find_reach(endpoint, bootstrap, port_of(ours))
            if reach.is_reached is False:
                say(in_words(reach))
            if reach.relay:
                # Before anybody hears of it: who is refused once does not dial for seconds.
                await reserve(p2p, reach.relay)
                await endpoint.close()
                announce = announced_behind(ours, reach.relay, bootstrap)
                again = partial(start_daemon, identity_path, node.listen_host, port_of(ours), bootstrap, announce)
                is_member = True  # whose certificate is at hand: it waits where the relay is gone for a moment
                p2p = await until_reached(again, say)
                endpoint = endpoint_on(p2p)
            roles = unseal(admission.certificate, Certificate)[0].roles
            joined = Joined(invite, identity, admission.certificate, roles, admission.config, admission.tokenizer)
            config = joined.config
            shard = await asyncio.to_thread(_open_shard, joined, node, data, say)
            model_layout = await asyncio.to_thread(layout, config)
            device = Device(node.device, config.numerics.precision)
            if device.problem:
                say(device.problem)
            shape = (config.batch.microbatch_sequences, config.data.context_tokens, model_layout.hidden_size)
            endpoint.become_member(joined.certificate, PayloadRules(shape, config.numerics.boundary_codec))
            addresses = tuple(str(address) for address in await p2p.get_visible_maddrs())
            rounds = await StrictRounds.create(p2p, traffic)
            find = partial(
                Directory.create, p2p, identity, membership, config.fingerprint, joined.certificate, bootstrap
            )

            async def meet() -> Directory:
                await introduce(endpoint, bootstrap, addresses)
                return await find()

            async with kept_slot(p2p, endpoint, reach.relay, say):
                directory = await (until_reached(meet, say) if is_member else meet())
                await endpoint.start()
                yield Peer(
                    node,
                    joined,
                    endpoint,
                    directory,
                    rounds,
                    compute,
                    device,
                    model_layout,
                    shard,
                    addresses,
                    say,
                    keepsake=keepsake,
                    traffic=traffic,
                    reach=reach,
                )
                await directory.close()
                await rounds.close()
        finally:
            await endpoint.close()
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
