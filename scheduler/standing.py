"""What lets a scheduler take part in its run: the admin's key in its folder, or an invite for a scheduler."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from scheduler.run_dir import RunDir, scheduler_certificate
from swarm.admission import Certificate, Invite, read_invite, unseal
from swarm.config import RunConfig
from swarm.durable import keeping
from swarm.errors import ConfigError, InviteInvalid, ProtocolError, RunMismatch
from swarm.identity import Identity
from swarm.net.admitting import Admission, admitted
from swarm.net.endpoint import Endpoint
from swarm.toml_text import to_toml


@dataclass(frozen=True, slots=True)
class Credentials:
    """Before the network is up.

    Attributes:
        invite, invite_text: of a standby; None and empty for a run's first scheduler.
    """

    fingerprint: str
    admin_public_key: str
    invite: Invite | None
    invite_text: str

    @property
    def bootstrap(self) -> tuple[str, ...]:
        """Addresses of schedulers that run already."""
        return () if self.invite is None else self.invite.bootstrap


@dataclass(frozen=True, slots=True)
class Standing:
    """A scheduler that may take part.

    Attributes:
        admin: the run's key, which admits newcomers; None for a standby without it.
        certificate: of ours.
    """

    config: RunConfig
    admin: Identity | None
    certificate: bytes


def credentials(run_dir: RunDir, invite_text: str) -> Credentials:
    """Read what is there.

    Raises:
        ConfigError: no run here, and no invite.
        InviteInvalid: the invite is for another role.
        RunMismatch: the folder is of another run than the invite.
    """
    if not invite_text:
        config = run_dir.load_config()
        return Credentials(config.fingerprint, config.admin_public_key, None, "")
    invite = read_invite(invite_text, time.time())
    if "scheduler" not in invite.roles:
        raise InviteInvalid(
            f"this invite is for {', '.join(invite.roles)}", "ask for one made with `swarm invite --role scheduler`"
        )
    if run_dir.config.exists() and run_dir.load_config().fingerprint != invite.fingerprint:
        raise RunMismatch(f"{run_dir.root} is of another run than the invite", "give a standby a folder of its own")
    return Credentials(invite.fingerprint, invite.admin_public_key, invite, invite_text)


async def take_part(run_dir: RunDir, found: Credentials, identity: Identity, endpoint: Endpoint) -> Standing:
    """Get our certificate: made with the admin's key, kept from an earlier time, or from another scheduler.

    Raises:
        SwarmError: the folder is damaged, or the invite is refused.
    """
    if run_dir.admin_key.exists() or found.invite is None:
        config = run_dir.load_config()
        admin = run_dir.load_admin(config)
        return Standing(config, admin, scheduler_certificate(run_dir, config, identity.peer_id))
    if not run_dir.certificate.exists():
        _keep(run_dir, await admitted(found.invite, found.invite_text, endpoint))
    certificate = run_dir.certificate.read_bytes()
    try:
        body, _ = unseal(certificate, Certificate)
    except ProtocolError:
        raise ConfigError(f"{run_dir.certificate} is damaged", "remove it; the invite brings a new one") from None
    if body.peer_id != identity.peer_id:
        raise ConfigError(f"{run_dir.certificate} is another scheduler's", "give every standby a folder of its own")
    return Standing(run_dir.load_config(), None, certificate)


def _keep(run_dir: RunDir, admission: Admission) -> None:
    with keeping(run_dir.config) as file:
        file.write(to_toml(dataclasses.asdict(admission.config), {}).encode())
    if admission.tokenizer:
        with keeping(run_dir.tokenizer) as file:
            file.write(admission.tokenizer)
    with keeping(run_dir.certificate) as file:  # last: it says that the others are whole
        file.write(admission.certificate)
