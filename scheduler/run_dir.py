"""The admin's folder of one run: what lies where.

run.toml         the run's configuration; never changed once a step is committed
tokenizer.json   only where the run has one of its own
admin.key        signs invites and certificates; keep a copy elsewhere
scheduler.key    this scheduler's identity
certificate      of a standby without the admin's key
revoked          members that the admin sent away, sealed
paused           there while no step is to begin
layout.json      what the model is made of: measured once
plan             the newest plan, sealed: whose votes count in an election
address          the scheduler's addresses while it runs, one a line
neighbours.json  where members were last: a standby comes back by them
invites/         one invite a role, made when the scheduler starts
audit.sqlite     every committed step
checkpoints/     one folder a checkpoint
status.json      the run as of now: what `swarm status` and the dashboard show
events.jsonl     what happened, one JSON object a line; events-before.jsonl when it grew too long
dashboard.token  lets people see a dashboard that others than this machine can reach
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from swarm.admission import Certificate, Invite, seal, write_invite
from swarm.config import RunConfig
from swarm.data.tokenizer import Tokenizer, load_tokenizer
from swarm.errors import ConfigError, RunError
from swarm.identity import Identity

CERTIFICATE_S = 90 * 24 * 3600.0
"""Certificates outlive any invite, so that a member can come back."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "run.toml"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer.json"

    @property
    def admin_key(self) -> Path:
        return self.root / "admin.key"

    @property
    def scheduler_key(self) -> Path:
        return self.root / "scheduler.key"

    @property
    def certificate(self) -> Path:
        return self.root / "certificate"

    @property
    def layout(self) -> Path:
        return self.root / "layout.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan"

    @property
    def revoked(self) -> Path:
        return self.root / "revoked"

    @property
    def paused(self) -> Path:
        return self.root / "paused"

    @property
    def address(self) -> Path:
        return self.root / "address"

    @property
    def neighbours(self) -> Path:
        return self.root / "neighbours.json"

    @property
    def invites(self) -> Path:
        return self.root / "invites"

    @property
    def audit(self) -> Path:
        return self.root / "audit.sqlite"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def dashboard_token(self) -> Path:
        return self.root / "dashboard.token"

    def load_config(self) -> RunConfig:
        """The run's configuration.

        Raises:
            ConfigError: no run here, or a broken run.toml.
        """
        if not self.config.exists():
            raise ConfigError(f"there is no run in {self.root}", f"make one with `swarm init {self.root}`")
        return RunConfig.from_toml(self.config)

    def load_admin(self, config: RunConfig) -> Identity:
        """The admin's key, checked against the run's.

        Raises:
            ConfigError: missing, damaged, or another run's.
        """
        admin = Identity.load(self.admin_key)
        if admin.public_key != config.admin_public_key:
            raise ConfigError(f"{self.admin_key} is not the key that run.toml names", "restore both from one backup")
        return admin

    def tokenizer_json(self) -> str:
        """Text of the run's tokenizer, empty for bytes."""
        return self.tokenizer.read_text(encoding="utf-8") if self.tokenizer.exists() else ""

    def tokenizer_of(self, config: RunConfig) -> Tokenizer:
        """The run's tokenizer; raises TokenizerMismatch where the file is not the one that run.toml names."""
        return load_tokenizer(config, self.tokenizer if self.tokenizer.exists() else None)

    def addresses(self) -> tuple[str, ...]:
        """Where the scheduler listens.

        Raises:
            RunError: it does not run and never did.
        """
        if not self.address.exists():
            raise RunError(f"the scheduler of {self.root} has no address yet", f"start `swarm scheduler {self.root}`")
        return tuple(self.address.read_text(encoding="utf-8").split())


def make_invite(
    config: RunConfig, admin: Identity, bootstrap: tuple[str, ...], roles: tuple[str, ...], uses: int, lifetime_s: float
) -> str:
    """A new invite, as one line of text."""
    invite = Invite(
        run_name=config.name,
        fingerprint=config.fingerprint,
        admin_public_key=config.admin_public_key,
        roles=roles,
        uses=uses,
        expires_at_s=time.time() + lifetime_s,
        nonce=secrets.token_bytes(16),
        bootstrap=bootstrap,
    )
    return write_invite(admin, invite)


def scheduler_certificate(run_dir: RunDir, config: RunConfig, peer: str) -> bytes:
    """Of the run's own scheduler: made with the admin's key where it is here, else what another scheduler gave us.

    Raises:
        ConfigError: the admin's key is damaged or another run's.
        OSError: there is neither.
    """
    if run_dir.admin_key.exists():
        return make_certificate(config, run_dir.load_admin(config), peer, ("scheduler",))
    return run_dir.certificate.read_bytes()


def make_certificate(config: RunConfig, admin: Identity, peer: str, roles: tuple[str, ...]) -> bytes:
    """A certificate of membership for one peer."""
    body = Certificate(
        fingerprint=config.fingerprint, peer_id=peer, roles=roles, expires_at_s=time.time() + CERTIFICATE_S
    )
    return seal(admin, body)
