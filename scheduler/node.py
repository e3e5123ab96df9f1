"""The scheduler's process: receives members, plans, and conducts the run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from scheduler.audit_log import AuditLog
from scheduler.conductor import Conductor
from scheduler.drafting import Draft
from scheduler.membership import Roster
from scheduler.plan_changes import PlanChanges, Planner
from scheduler.reception import Reception
from scheduler.restart import Restart, restart_of
from scheduler.run_dir import RunDir, make_certificate
from scheduler.status import Event, Status
from scheduler.survey import Survey, survey
from swarm.admission import Membership
from swarm.config import RunConfig
from swarm.errors import RunError, SwarmError
from swarm.exclusive import exclusive
from swarm.identity import Identity
from swarm.model.blueprint import Layout, layout
from swarm.net.directory import LIFETIME_S, Directory, expiry
from swarm.net.endpoint import Endpoint
from swarm.net.libp2p import Libp2pTransport, start_daemon
from swarm.plan import Plan
from swarm.wire.messages import FetchState, LeaderRecord, ListState
from swarm.wire.payloads import PayloadRules

_STATUS_S = 1.0


@dataclass(slots=True)
class Node:
    """The composition root of the admin's process.

    Args:
        addresses: that peers can reach.
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
            await self.conductor.assign(await self._first_plan())
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

    async def _first_plan(self) -> Plan:
        changes, restart = self.conductor.changes, self.conductor.restart
        question = changes.survey()
        for note in question.notes:
            self.conductor.tell({"event": "warning", "problem": note})
        found = await asyncio.to_thread(changes.planner, question.instance)
        certificate = self.status.certify(found.evaluation.tokens_per_s, found.bound_tokens_per_s, question)
        self.conductor.tell(certificate)
        return changes.draft.plan(
            question.instance, found.assignment, number=restart.plan_number, first_step=restart.next_step
        )


@asynccontextmanager
async def opened(
    run_dir: RunDir,
    host: str,
    port: int,
    min_hosts: int,
    min_owners: int,
    num_stages: int,
    planner: Planner,
    resume: bool,
    tell: Event,
) -> AsyncIterator[Node]:
    """Start the scheduler of a run.

    Args:
        host, port: to listen on; port 0 lets the system choose.
        min_hosts, min_owners: the run begins when so many are here.
        num_stages: the admin's wish; 0 leaves it to the planner.
        planner: decides on plans.
        resume: go on at the newest checkpoint of a run that has steps.
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
            if log.num_steps and not resume:
                raise RunError(f"{run_dir.root} has {log.num_steps} committed steps", "go on with `swarm resume`")
            restart = restart_of(run_dir, config, log) if resume else Restart()
            if restart.next_step >= config.schedule.steps:
                raise RunError(f"the run in {run_dir.root} is finished", "take it along with `swarm export`")
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
                survey_now = partial(_survey, config, model_layout, roster, identity.peer_id, num_stages)
                draft = Draft(config.fingerprint, model_layout.trunk.first)
                changes = PlanChanges(roster, draft, survey_now, planner, tell)
                conductor = Conductor(
                    run_dir,
                    config,
                    model_layout,
                    identity,
                    endpoint,
                    log,
                    roster,
                    status,
                    tell,
                    log.begin_term(time.time()),
                    restart,
                    changes,
                )
                reception = Reception(
                    run_dir, config, admin, log, roster, status, directory, membership, tell, conductor.newcomer
                )
                shelf = restart.shelf(model_layout)
                endpoint.on_request(ListState, shelf.list)
                endpoint.on_request(FetchState, shelf.fetch)
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
                )
                await directory.close()
            finally:
                await endpoint.close()
        finally:
            log.close()


def _survey(config: RunConfig, layout: Layout, roster: Roster, scheduler: str, num_stages: int) -> Survey:
    return survey(config, layout, roster.hosts, roster.owners, scheduler, num_stages)
