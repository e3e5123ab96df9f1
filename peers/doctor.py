"""`swarm doctor`'s hands: looks at everything that joining needs, by what joining itself does."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from importlib import metadata

from hivemind.p2p import P2P

from peers.findings import Finding, judge_addresses, judge_reach, missing
from peers.keepsake import Keepsake
from peers.peer import disk_bytes
from peers.probe import measure_layer, require_room, usable_memory_bytes
from swarm.admission import Invite, Membership, read_invite
from swarm.config import NodeConfig, RunConfig
from swarm.errors import SwarmError
from swarm.exclusive import exclusive
from swarm.identity import Identity
from swarm.model.blueprint import layout
from swarm.net import lan
from swarm.net.admitting import Admission
from swarm.net.clocks import check_gaps
from swarm.net.dialling import find_reach
from swarm.net.endpoint import Endpoint
from swarm.net.introduction import ask
from swarm.net.libp2p import Libp2pTransport, answers, start_daemon
from swarm.net.reach import port_of
from swarm.training.device import Device

_DISTRIBUTION = "swarm-pretraining"
_LEAST_DISK_BYTES = 256 << 20
_GIB = 1 << 30


async def examine(node: NodeConfig, invite_text: str) -> AsyncIterator[Finding]:
    """Everything that a peer on this machine needs, one after the other; nothing of it uses the invite up.

    Args:
        node: as `swarm join` would have it.
        invite_text: empty to look at this machine only.
    """
    yield _software()
    try:
        with exclusive(node.state_dir, "stop the peer that runs there, or ask it with `swarm me`"):
            yield _disk(node)
            invite = None
            if invite_text:
                invite, finding = _invite(invite_text)
                yield finding
            admission = None
            if invite is not None:
                admission = Keepsake(node.state_dir / f"run-{invite.fingerprint[:16]}").admission(invite.fingerprint)
            for finding in await asyncio.to_thread(_machine, node, None if admission is None else admission.config):
                yield finding
            async for finding in _network(node, invite, invite_text, admission):
                yield finding
    except SwarmError as error:
        yield Finding.of_error("folder", error)


def _software() -> Finding:
    installed = {each.name: each.version for each in metadata.distributions()}
    wrong = missing(metadata.requires(_DISTRIBUTION) or (), installed)
    version = ".".join(map(str, sys.version_info[:3]))
    if wrong:
        return Finding("software", "bad", "; ".join(wrong), "S100", "install this version of swarm-pretraining anew")
    named = ", ".join(f"{name} {installed[name]}" for name in ("torch", "hivemind", "transformers"))
    return Finding("software", "good", f"Python {version}, {named}")


def _disk(node: NodeConfig) -> Finding:
    free = disk_bytes(node)
    text = f"{free / _GIB:,.1f} GiB for what a restart goes on from, in {node.state_dir}"
    if free < _LEAST_DISK_BYTES:
        return Finding("disk", "warning", text, "S604", "free space on its disk, or raise --disk-mib")
    return Finding("disk", "good", text)


def _invite(text: str) -> tuple[Invite | None, Finding]:
    try:
        invite = read_invite(text, time.time())
    except SwarmError as error:
        return None, Finding.of_error("invite", error)
    days = (invite.expires_at_s - time.time()) / 86400
    roles = " and ".join(invite.roles)
    return invite, Finding("invite", "good", f"of run {invite.run_name}, for {roles}, for {days:.1f} days")


def _machine(node: NodeConfig, config: RunConfig | None) -> list[Finding]:
    """Device and memory; against the run's own layers where an earlier admission brought its configuration."""
    try:
        device = Device(node.device, "bf16" if config is None else config.numerics.precision)
    except SwarmError as error:
        return [Finding.of_error("device", error)]
    name = device.torch_device.type
    found = [Finding("device", "good", name)]
    if device.problem:
        found = [Finding("device", "warning", f"{name}: {device.problem}", remedy="nothing: it is only slower")]
    free = usable_memory_bytes(node, device)
    if config is None:
        return [*found, Finding("memory", "good", f"{free / _GIB:,.1f} GiB are free")]
    try:
        costs = measure_layer(config, layout(config), device)
        require_room(costs, free)
    except SwarmError as error:
        return [*found, Finding.of_error("memory", error)]
    text = (
        f"{free / _GIB:,.1f} GiB are free, a layer takes {costs.layer_bytes / _GIB:,.2f} GiB and "
        f"{costs.layer_seconds:.3g} s a microbatch"
    )
    return [*found, Finding("memory", "good", text)]


async def _network(
    node: NodeConfig, invite: Invite | None, invite_text: str, admission: Admission | None
) -> AsyncIterator[Finding]:
    try:
        async with _daemon(node, ()) as p2p:
            ours = tuple(str(address) for address in await p2p.get_visible_maddrs())
    except SwarmError as error:
        yield Finding.of_error("daemon", error)
        return
    yield Finding("daemon", "good", f"starts, and listens at {', '.join(ours)}")
    if invite is None:
        return
    reached = [address for address in invite.bootstrap if await answers([address])]
    yield await _reach(invite, reached)
    yield await _dialled(node, invite, invite_text, admission, reached) or judge_addresses(ours, invite.bootstrap)
    if reached:
        yield await _clock(node, invite, admission, reached)


@contextlib.asynccontextmanager
async def _daemon(node: NodeConfig, initial_peers: Sequence[str]) -> AsyncIterator[P2P]:
    key = node.state_dir / "identity.key"
    Identity.load_or_create(key)
    p2p = await start_daemon(key, node.listen_host, node.listen_port, initial_peers)
    try:
        yield p2p
    finally:
        await p2p.shutdown()


async def _reach(invite: Invite, reached: list[str]) -> Finding:
    text = f"{len(reached)} of the {len(invite.bootstrap)} addresses in the invite answer"
    if not reached:
        text = f"none of the addresses in the invite answers: {', '.join(invite.bootstrap)}"
        membership = Membership(invite.fingerprint, invite.admin_public_key)
        places = await asyncio.to_thread(lan.found, membership, invite.fingerprint)
        heard = [address for place in places for address in place.bootstrap]
        if any([await answers([address]) for address in heard]):
            return Finding("run", "warning", f"{text}; the local network has it at {', '.join(heard)}", "S203", "join")
        return Finding("run", "bad", text, "S203", "check the network and firewalls, and ask the admin whether it runs")
    return Finding("run", "good", text)


async def _dialled(
    node: NodeConfig, invite: Invite, invite_text: str, admission: Admission | None, reached: list[str]
) -> Finding | None:
    """What members say that dialled us; None where nobody could tell, or there is nobody to ask."""
    membership = Membership(invite.fingerprint, invite.admin_public_key)
    certificate = b"" if admission is None else admission.certificate
    if not reached:
        return None
    try:
        async with _daemon(node, reached) as p2p:
            endpoint = Endpoint(Libp2pTransport(p2p), membership, invite.fingerprint, certificate)
            port = port_of(str(address) for address in await p2p.get_visible_maddrs())
            return judge_reach(await find_reach(endpoint, reached, port, invite_text if admission is None else ""))
    except SwarmError as error:
        return Finding.of_error("dialled by others", error)


async def _clock(node: NodeConfig, invite: Invite, admission: Admission | None, reached: list[str]) -> Finding:
    """Only members are told what others' clocks say."""
    if admission is None:
        return Finding("clock", "unknown", "compared when the peer joins for the first time")
    membership = Membership(invite.fingerprint, invite.admin_public_key)
    try:
        async with _daemon(node, reached) as p2p:
            endpoint = Endpoint(Libp2pTransport(p2p), membership, invite.fingerprint, admission.certificate)
            heard = [await ask(endpoint, address.rpartition("/p2p/")[2]) for address in reached]
        gaps = [answer.gap for answer in heard if answer is not None]
        check_gaps(gaps)
    except SwarmError as error:
        return Finding.of_error("clock", error)
    if not gaps:
        return Finding("clock", "unknown", "no member answered the question for its clock")
    nearest = min(gaps, key=lambda each: abs(each.ahead_s))
    return Finding("clock", "good", f"{abs(nearest.ahead_s):.2f} s from a member's, within {nearest.error_s:.2f} s")
