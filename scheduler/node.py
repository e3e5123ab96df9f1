"""The scheduler's process: receives members, plans, and conducts the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from scheduler.audit_log import AuditLog
from scheduler.conductor import Conductor
from scheduler.membership import Roster
from scheduler.planner.balanced import balanced
from scheduler.planner.instance import Instance
from scheduler.planner.problem import HostFacts, Placement, Planner, Problem
from scheduler.reception import Reception
from scheduler.run_dir import RunDir, make_certificate
from scheduler.status import Event, Status
from scheduler.survey import survey
from swarm.admission import Membership
from swarm.config import RunConfig
from swarm.errors import RunError, SwarmError
from swarm.exclusive import exclusive
from swarm.identity import Identity
from swarm.model.blueprint import Layout, layout
from swarm.net.directory import LIFETIME_S, Directory, expiry
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.plan import Plan, StagePlan
from swarm.wire import compression
from swarm.wire.messages import LeaderRecord
from swarm.wire.payloads import PayloadRules

_STATUS_S = 1.0


@dataclass(slots=True)
class Node:
    """The composition root of the admin's process.

    Args:
        num_stages: the admin's wish; 0 leaves it to the planner.
        planner: from what members measured to who hosts what.
    """

    config: RunConfig
    admin: Identity
    layout: Layout
    endpoint: Endpoint
    directory: Directory
    roster: Roster
    status: Status
    reception: Reception
    conductor: Conductor
    addresses: tuple[str, ...]
    num_stages: int
    planner: Planner = balanced

    async def run(self) -> None:
        """From the first member to the last step.

        Raises:
            ModelTooLarge: the members' memory does not hold the model.
            StageWithoutHost: the last replica of a stage is gone.
            RunError: the run cannot go on for another reason.
        """
        self.reception.open(self.endpoint)
        self.conductor.open()
        background = [asyncio.create_task(self._announce()), asyncio.create_task(self._keep_status())]
        problem = "the scheduler was stopped"
        try:
            await self.reception.until_complete()
            background.append(asyncio.create_task(self.reception.keep_looking()))
            placement = await asyncio.to_thread(self.planner, self._problem())
            await self.conductor.assign(self._first_plan(placement))
            await self.conductor.lead()
            self.status.phase = "finished"
            problem = ""
        except SwarmError as error:
            self.status.phase = problem = error.problem
            raise
        finally:
            await self.conductor.send_home(problem)
            for task in background:
                task.cancel()
            self.status.save()

    async def _announce(self) -> None:
        while True:
            record = LeaderRecord(
                certificate=self.endpoint.certificate,
                term=self.conductor.term,
                addresses=self.addresses,
                plan=self.conductor.sealed_plan,
                expires_at_s=expiry(),
            )
            await self.directory.publish(record)
            await asyncio.sleep(LIFETIME_S / 3)

    async def _keep_status(self) -> None:
        while True:
            await asyncio.sleep(_STATUS_S)
            await asyncio.to_thread(self.status.save)
            if self.status.started_at_s:
                self.conductor.tell(self.status.progress())

    def _problem(self) -> Problem:
        trunk = self.layout.trunk
        batch, data = self.config.batch, self.config.data
        values = batch.microbatch_sequences * data.context_tokens * self.layout.hidden_size
        hosts = tuple(
            HostFacts(peer, facts.memory_bytes, facts.layer_seconds, facts.up_bytes_per_s)
            for peer, facts in self.roster.hosts.items()
        )
        return Problem(
            hosts=hosts,
            owners=tuple(self.roster.owners),
            trunk=trunk,
            layer_parameters=max(self.layout.layer_parameters[trunk.first : trunk.last]),
            boundary_bytes=compression.encoded_bytes(self.config.numerics.boundary_codec, values),
            global_batch=batch.global_batch_microbatches,
            microbatch_tokens=self.config.microbatch_tokens,
            num_stages=self.num_stages,
        )

    def _first_plan(self, placement: Placement) -> Plan:
        stages = tuple(
            StagePlan(first_layer=span.first, last_layer=span.last, replicas=replicas, routing_weights=weights)
            for span, replicas, weights in zip(placement.spans, placement.replicas, placement.weights, strict=True)
        )
        placed = {peer for replicas in placement.replicas for peer in replicas}
        return Plan(
            number=1,
            fingerprint=self.config.fingerprint,
            first_step=0,
            stages=stages,
            owners=tuple(self.roster.owners),
            standby=tuple(peer for peer in self.roster.hosts if peer not in placed),
            window=placement.window,
            predicted_tokens_per_s=placement.tokens_per_s,
        )


@asynccontextmanager
async def opened(
    run_dir: RunDir, host: str, port: int, min_hosts: int, min_owners: int, num_stages: int, tell: Event
) -> AsyncIterator[Node]:
    """Start the scheduler of a run.

    Args:
        host, port: to listen on; port 0 lets the system choose.
        min_hosts, min_owners: the run begins when so many are here.
        num_stages: the admin's wish; 0 leaves it to the planner.
        tell: shows people and programs what happens.

    Raises:
        SwarmError: a broken run folder, a run that has steps already, a taken port.
    """
    config = run_dir.load_config()
    admin = run_dir.load_admin(config)
    run_dir.tokenizer_of(config)
    model_layout = await asyncio.to_thread(layout, config)
    identity = Identity.load_or_create(run_dir.scheduler_key)
    with exclusive(run_dir.root, "stop it; a run has one scheduler"):
        log = AuditLog(run_dir.audit, config.fingerprint, config.to_json())
        try:
            if log.num_steps:
                raise RunError(
                    f"{run_dir.root} has {log.num_steps} committed steps already", "make a new run with `swarm init`"
                )
            p2p = await start_daemon(run_dir.scheduler_key, host, port, ())
            membership = Membership(config.fingerprint, config.admin_public_key)
            certificate = make_certificate(config, admin, identity.peer_id, ("scheduler",))
            shape = (config.batch.microbatch_sequences, config.data.context_tokens, model_layout.hidden_size)
            rules = PayloadRules(shape, config.numerics.boundary_codec)
            endpoint = Endpoint(Libp2pTransport(p2p), membership, config.fingerprint, certificate, rules)
            try:
                directory = await Directory.create(p2p, identity, membership, config.fingerprint, certificate, ())
                status = Status(run_dir.status, config)
                roster = Roster(min_hosts, min_owners)
                addresses = tuple(str(address) for address in await p2p.get_visible_maddrs())
                resurvey = partial(_survey, config, model_layout, roster, identity.peer_id)
                conductor = Conductor(
                    run_dir, config, model_layout, identity, endpoint, log, roster, status, tell, 1, resurvey
                )
                reception = Reception(
                    run_dir, config, admin, log, roster, status, directory, membership, tell, conductor.newcomer
                )
                await endpoint.start()
                yield Node(
                    config,
                    admin,
                    model_layout,
                    endpoint,
                    directory,
                    roster,
                    status,
                    reception,
                    conductor,
                    addresses,
                    num_stages,
                )
                await directory.close()
            finally:
                await endpoint.close()
        finally:
            log.close()


def _survey(config: RunConfig, layout: Layout, roster: Roster, scheduler: str) -> Instance:
    return survey(config, layout, roster.hosts, roster.owners, scheduler).instance
