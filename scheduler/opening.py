"""Starting a scheduler: its folder, its daemon, its standing in the run, the directory, and what may be wrong there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from scheduler.audit_log import AuditLog
from scheduler.layout_file import layout_of
from scheduler.membership import Roster
from scheduler.node import Node, Wishes
from scheduler.office import Office
from scheduler.own_checkpoint import OwnCheckpoint
from scheduler.reception import Reception
from scheduler.revoking import Revocations
from scheduler.run_dir import RunDir
from scheduler.standing import Standing, credentials, take_part
from scheduler.status import Event, Status
from swarm.address_book import AddressBook
from swarm.admission import Membership
from swarm.errors import RunError
from swarm.exclusive import exclusive
from swarm.identity import Identity
from swarm.net.dialling import Dialler
from swarm.net.directory import Directory
from swarm.net.endpoint import Endpoint
from swarm.net.introduction import introduce
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.net.patience import until_reached
from swarm.net.relay import Relay
from swarm.net.shelf import Shelf
from swarm.net.signpost import Signpost
from swarm.wire.payloads import PayloadRules


@asynccontextmanager
async def opened(
    run_dir: RunDir, host: str, port: int, wishes: Wishes, invite: str, tell: Event
) -> AsyncIterator[Node]:
    """Start a scheduler of a run.

    Args:
        host, port: to listen on; port 0 lets the system choose.
        invite: of a standby: from the run's admin; empty for the run's first scheduler.
        tell: shows people and programs what happens.

    Raises:
        SwarmError: a broken run folder, a run that has steps already, a taken port.
    """
    found = credentials(run_dir, invite)
    run_dir.root.mkdir(parents=True, exist_ok=True)
    with exclusive(run_dir.root, "stop it; a run's folder has one scheduler"):
        identity = Identity.load_or_create(run_dir.scheduler_key)
        membership = Membership(found.fingerprint, found.admin_public_key)
        revocations = Revocations(run_dir, membership)
        revocations.look()
        if found.invite is None:
            await asyncio.to_thread(_check_folder, run_dir, wishes)
        relay = Relay() if wishes.relay else None
        bootstrap = found.bootstrap
        if bootstrap:  # a standby's; whoever it names may be away just now
            bootstrap = tuple(dict.fromkeys((*bootstrap, *AddressBook(run_dir.neighbours).read())))
        start = partial(start_daemon, run_dir.scheduler_key, host, port, bootstrap, relay=relay)
        say = partial(_tell_waiting, tell)
        was_here = run_dir.audit.exists()
        p2p = await (until_reached(start, say) if was_here else start())
        endpoint = Endpoint(Libp2pTransport(p2p), membership, found.fingerprint)
        try:
            standing = await take_part(run_dir, found, identity, endpoint)
            endpoint.become_member(standing.certificate, None)
            addresses = tuple(str(address) for address in await p2p.get_visible_maddrs())
            find = partial(
                Directory.create, p2p, identity, membership, found.fingerprint, standing.certificate, bootstrap
            )

            async def meet() -> Directory:
                await introduce(endpoint, bootstrap, addresses)
                return await find()

            directory = await (until_reached(meet, say) if was_here else meet())
            async with _opened_office(run_dir, standing, identity, endpoint, directory, addresses, tell) as office:
                _check_progress(run_dir, office.log, office.config.schedule.steps, wishes)
                reception = Reception(office, standing.admin, membership, Dialler(p2p, wishes.relay), relay)
                checkpoint = OwnCheckpoint(run_dir, office.config, office.layout, office.shelf)
                signpost = Signpost()
                await signpost.open(p2p)
                await endpoint.start()
                yield Node(office, reception, checkpoint, wishes, signpost, revocations)
            await directory.close()
        finally:
            await endpoint.close()


@asynccontextmanager
async def _opened_office(
    run_dir: RunDir,
    standing: Standing,
    identity: Identity,
    endpoint: Endpoint,
    directory: Directory,
    addresses: tuple[str, ...],
    tell: Event,
) -> AsyncIterator[Office]:
    config = standing.config
    run_dir.tokenizer_of(config)
    model_layout = await asyncio.to_thread(layout_of, config, run_dir.layout)
    shape = (config.batch.microbatch_sequences, config.data.context_tokens, model_layout.hidden_size)
    endpoint.become_member(standing.certificate, PayloadRules(shape, config.numerics.boundary_codecs))
    with contextlib.closing(AuditLog(run_dir.audit, config.fingerprint, config.to_json())) as log:
        yield Office(
            run_dir=run_dir,
            config=config,
            layout=model_layout,
            identity=identity,
            endpoint=endpoint,
            directory=directory,
            log=log,
            roster=Roster(),
            status=Status(run_dir.status, config, endpoint.peer_id),
            shelf=Shelf(),
            tell=tell,
            addresses=addresses,
        )


def _tell_waiting(tell: Event, problem: str) -> None:
    tell({"event": "warning", "problem": problem})


def _check_folder(run_dir: RunDir, wishes: Wishes) -> None:
    """What can be known to be wrong before the network is up."""
    config = run_dir.load_config()
    run_dir.load_admin(config)
    run_dir.tokenizer_of(config)
    layout_of(config, run_dir.layout)
    with contextlib.closing(AuditLog(run_dir.audit, config.fingerprint, config.to_json())) as log:
        _check_progress(run_dir, log, config.schedule.steps, wishes)


def _check_progress(run_dir: RunDir, log: AuditLog, num_steps: int, wishes: Wishes) -> None:
    if log.num_steps and not (wishes.resume or wishes.standby):
        raise RunError(f"{run_dir.root} has {log.num_steps} committed steps", "go on with `swarm resume`")
    if log.num_steps >= num_steps and not wishes.standby:
        raise RunError(f"the run in {run_dir.root} is finished", "take it along with `swarm export`")
