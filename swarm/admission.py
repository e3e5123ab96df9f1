"""Who may take part: seals, invites and certificates.

The admin signs an invite; whoever shows it to a scheduler gets a certificate for its own peer id and the invite's
roles. Every later connection shows that certificate, and the channel checks it against libp2p's authenticated id.
"""

from __future__ import annotations

import base64
import binascii
import functools
from dataclasses import dataclass
from typing import Any, TypeVar

from swarm.errors import ConfigError, InviteExpired, InviteInvalid, NotAMember, ProtocolError, RunMismatch
from swarm.identity import Identity, peer_id_of, verify
from swarm.wire import codec
from swarm.wire.codec import message

M = TypeVar("M")

ROLES = ("host", "owner", "scheduler")
_INVITE_PREFIX = "swarm1-"
_ASK_ADMIN = "ask the run's admin for a new invite"


@message(1)
@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A message and its signer's word for it."""

    body: bytes
    signer: str
    signature: bytes


@message(2)
@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """May be turned into `uses` certificates until it expires."""

    run_name: str
    fingerprint: str
    admin_public_key: str
    roles: tuple[str, ...]
    uses: int
    expires_at_s: float
    nonce: bytes
    bootstrap: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.roles or set(self.roles) - set(ROLES):
            raise ValueError(f"roles are {self.roles}")


@message(3)
@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The admin lets this peer take part in this run."""

    fingerprint: str
    peer_id: str
    roles: tuple[str, ...]
    expires_at_s: float


@message(105)
@dataclass(frozen=True, slots=True, kw_only=True)
class Revoked:
    """The admin sent these peers away, for good: whatever list somebody shows later, none of them comes back."""

    fingerprint: str
    peers: tuple[str, ...]


_REMEMBERED = 4096
_REMEMBERED_BYTES = 8192
"""Larger ones are rare, and would fill memory."""


def seal(identity: Identity, body: object) -> bytes:
    """Sign a registered message."""
    encoded = codec.encode(body)
    return codec.encode(Sealed(body=encoded, signer=identity.peer_id, signature=identity.sign(encoded)))


def unseal(data: bytes, kind: type[M]) -> tuple[M, str]:
    """Check a seal.

    Returns:
        The message and the peer id of its signer.

    Raises:
        ProtocolError: not sealed, a wrong signature, or another kind of message.
    """
    opened = _opened if len(data) <= _REMEMBERED_BYTES else _open
    body, signer = opened(bytes(data))
    if not isinstance(body, kind):
        raise ProtocolError(f"a sealed message is a {type(body).__name__}, not a {kind.__name__}", "drop that peer")
    return body, signer


def _open(data: bytes) -> tuple[Any, str]:
    sealed = codec.decode(data)
    if not isinstance(sealed, Sealed) or not verify(sealed.signer, sealed.body, sealed.signature):
        raise ProtocolError("a sealed message has no valid signature", "drop that peer")
    return codec.decode(sealed.body), sealed.signer


# The directory shows the same records and certificates again and again; messages are immutable, and so is a verdict.
_opened = functools.lru_cache(_REMEMBERED)(_open)


def write_invite(admin: Identity, invite: Invite) -> str:
    """The invite as one line of text."""
    return _as_text(seal(admin, invite))


def _as_text(sealed: bytes) -> str:
    return _INVITE_PREFIX + base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def read_invite(text: str, now_s: float) -> Invite:
    """Check an invite that somebody typed or pasted.

    Raises:
        InviteInvalid: damaged or not signed by the admin it names.
        InviteExpired: past its time.
    """
    text = text.strip()
    if not text.startswith(_INVITE_PREFIX):
        raise InviteInvalid(f"this is no invite: it does not start with {_INVITE_PREFIX}", "paste the whole line")
    encoded = text[len(_INVITE_PREFIX) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        invite, signer = unseal(data, Invite)
        # Base64 has several spellings of the same bytes; only ours is taken.
        genuine = signer == peer_id_of(invite.admin_public_key) and _as_text(data) == text
    except (binascii.Error, ValueError, ProtocolError, ConfigError):
        genuine = False
    if not genuine:
        raise InviteInvalid("the invite is damaged or forged", f"paste the whole line again, or {_ASK_ADMIN}")
    if invite.expires_at_s < now_s:
        late_s = now_s - invite.expires_at_s
        raise InviteExpired(f"the invite expired {late_s:,.0f} s ago by this machine's clock", _ASK_ADMIN)
    return invite


class Membership:
    """Checks certificates against one run.

    Args:
        fingerprint: of the run configuration.
        admin_public_key: hex; whose seal makes a certificate.
    """

    def __init__(self, fingerprint: str, admin_public_key: str) -> None:
        self._fingerprint = fingerprint
        self._admin = peer_id_of(admin_public_key)
        self._revoked: dict[str, bytes] = {}

    @property
    def revoked(self) -> frozenset[str]:
        """Peers whose certificates count no more."""
        return frozenset(self._revoked)

    def proof(self, peer_id: str) -> bytes:
        """The sealed list that names a revoked peer."""
        return self._revoked[peer_id]

    def revoke(self, sealed: bytes) -> frozenset[str]:
        """Take in a list that the admin sealed; lists add up, so an old one that is shown again changes nothing.

        Returns:
            The peers that were not revoked before.

        Raises:
            ProtocolError: it is not this run's admin's.
        """
        body, signer = unseal(sealed, Revoked)
        if signer != self._admin or body.fingerprint != self._fingerprint:
            raise ProtocolError("a list of revoked members is not this run's admin's", "drop that peer")
        new = frozenset(body.peers) - self.revoked
        self._revoked |= dict.fromkeys(new, sealed)
        return new

    def check(self, certificate: bytes, peer_id: str, now_s: float) -> Certificate:
        """Admit `peer_id`, which libp2p authenticated, by its certificate.

        Raises:
            NotAMember: no certificate, a forged or expired one, or somebody else's; or the admin revoked it.
            RunMismatch: a certificate of another run.
        """
        if not certificate:
            raise NotAMember(f"{peer_id} shows no certificate of membership", "join with an invite")
        try:
            body, signer = unseal(certificate, Certificate)
        except ProtocolError:
            raise NotAMember(f"{peer_id} shows a damaged certificate", "join again with an invite") from None
        if body.fingerprint != self._fingerprint:
            raise RunMismatch(
                f"{peer_id} is a member of run {body.fingerprint[:12]}, not of {self._fingerprint[:12]}",
                "join with an invite of this run",
            )
        if signer != self._admin or body.peer_id != peer_id:
            raise NotAMember(f"{peer_id} shows a certificate that is not its own", "join with an invite")
        if peer_id in self._revoked:
            raise NotAMember(f"the admin revoked the membership of {peer_id}", "ask the run's admin")
        if body.expires_at_s < now_s:
            raise NotAMember(f"the certificate of {peer_id} has expired", "join again with a new invite")
        return body
