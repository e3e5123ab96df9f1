"""The DHT as a directory of the run: who is here, who leads. Signed, expiring, schema-checked, members only."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgpack
from hivemind.dht import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID
from hivemind.utils.auth import AuthorizerBase
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from swarm.admission import Membership, seal, unseal
from swarm.errors import AdmissionError, PeerUnavailable, ProtocolError
from swarm.identity import Identity, verify
from swarm.net.patience import settle
from swarm.wire.messages import LeaderRecord, PeerRecord

R = TypeVar("R", PeerRecord, LeaderRecord)

LIFETIME_S = 60.0
"""A record that is not renewed disappears after this."""
MAX_RECORD_BYTES = 64 << 10
_MAX_CLOCK_ERROR_S = 30.0
_REPLICAS = 5
_CALL_S = 10.0
"""hivemind's 3 s are not enough while a machine loads libraries in several processes."""
_OTHERS_S = 2.0
"""Once somebody has answered: who sleeps or is cut off is not waited for."""
_ROLE_OF: dict[type, str | None] = {PeerRecord: None, LeaderRecord: "scheduler"}


class Directory:
    """Publishes and reads records of one run; made with `create`."""

    def __init__(self, node: DHTNode, identity: Identity, fingerprint: str, validator: _Validator) -> None:
        self._node = node
        self._identity = identity
        self._fingerprint = fingerprint
        self._validator = validator

    @classmethod
    async def create(
        cls,
        p2p: P2P,
        identity: Identity,
        membership: Membership,
        fingerprint: str,
        certificate: bytes,
        initial_peers: Sequence[str],
    ) -> Directory:
        """Join the DHT through a running daemon.

        Raises:
            PeerUnavailable: none of `initial_peers` answered, or they refused us.
        """
        validator = _Validator(membership, fingerprint)
        node = await DHTNode.create(
            p2p=p2p,
            record_validator=validator,
            authorizer=_Authorizer(identity, membership, certificate),
            num_replicas=_REPLICAS,
            wait_timeout=_CALL_S,
        )
        try:
            await _bootstrap(node, initial_peers)
        except BaseException:
            await node.shutdown()  # its handlers would be in the way of the next attempt
            raise
        return cls(node, identity, fingerprint, validator)

    async def publish(self, record: PeerRecord | LeaderRecord) -> bytes:
        """Announce a record under our own id until it expires; sealed, or nothing where nobody took it."""
        sealed = seal(self._identity, record)
        stored = await self._node.store(
            _key(self._fingerprint, type(record)), sealed, record.expires_at_s, subkey=self._identity.peer_id
        )
        return sealed if stored else b""

    def open(self, kind: type[R], peer_id: str, sealed: bytes) -> R | None:
        """A record that did not come through the DHT; None where anything about it is wrong."""
        return self._validator.open(kind, peer_id, sealed, None)

    async def greet(self, peer_id: str) -> None:
        """Be known to a member's DHT node, and know it; nothing where it does not answer."""
        await self._node.protocol.call_ping(PeerID.from_base58(peer_id))

    async def read(self, kind: type[R], *, latest: bool = True) -> dict[str, R]:
        """All valid records of a kind, by peer id.

        Args:
            latest: ask everybody who may have them, also those who are gone, which takes seconds; else whoever answers.
        """
        found = await self._node.get(_key(self._fingerprint, kind), latest=latest)
        if found is None or not isinstance(found.value, dict):
            return {}
        records: dict[str, R] = {}
        for peer_id, entry in found.value.items():
            record = self._validator.open(kind, peer_id, entry.value, entry.expiration_time)
            if record is not None:
                records[peer_id] = record
        return records

    async def close(self) -> None:
        """Leave the DHT; the daemon goes on."""
        await self._node.shutdown()


async def _bootstrap(node: DHTNode, initial_peers: Sequence[str]) -> None:
    """Meet the DHT. hivemind's own way leaves the handlers of a node that met nobody in the daemon for good."""
    if not initial_peers:
        return
    peers = {peer for peer in map(_peer_of, initial_peers) if peer is not None}
    if problem := await _ping(node, peers):
        raise PeerUnavailable(
            f"no peer of the run's directory answered ({problem})",
            "check the network, and this machine's clock: more than 3 s off is refused",
        )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_OTHERS_S):
            await node.find_nearest_nodes([node.node_id])  # who they know


async def _ping(node: DHTNode, peers: Iterable[PeerID]) -> str:
    """Be known to some peers, and know them; says what is wrong where none of them answers."""
    pings = [asyncio.create_task(node.protocol.call_ping(peer, validate=True)) for peer in peers]
    await settle(pings, _is_met, lambda took_s: _OTHERS_S)
    ended = [ping for ping in pings if ping.done()]
    if any(_is_met(ping) for ping in ended):
        return ""
    errors = [ping.exception() for ping in ended]
    return next((str(error) for error in errors if error is not None), "none responded to a ping")


def _is_met(ping: asyncio.Task[object]) -> bool:
    return ping.exception() is None and isinstance(ping.result(), DHTID)


def _peer_of(address: str) -> PeerID | None:
    """Whose address it is; None for one that says nothing: others may have announced anything."""
    try:
        peer = address.rpartition("/p2p/")[2]  # the last one: a relay's may stand before it
        return PeerID.from_base58(Multiaddr(f"/p2p/{peer}")["p2p"])
    except (MultiaddrError, ValueError, LookupError):
        return None


def expiry() -> float:
    """When a record made now expires, seconds since 1970."""
    return time.time() + LIFETIME_S


def _key(fingerprint: str, kind: type) -> str:
    return f"{fingerprint}/{kind.__name__}"


class _Validator(RecordValidatorBase):  # type: ignore[misc]
    """Refuses every record that is not one of this run's, signed by the peer it is filed under."""

    def __init__(self, membership: Membership, fingerprint: str) -> None:
        self._membership = membership
        self._kinds = {DHTID.generate(source=_key(fingerprint, kind)).to_bytes(): kind for kind in _ROLE_OF}

    def validate(self, record: DHTRecord) -> bool:
        kind = self._kinds.get(record.key)
        if kind is None or len(record.value) > MAX_RECORD_BYTES:
            return False
        try:
            peer_id, value = msgpack.unpackb(record.subkey), msgpack.unpackb(record.value)
        except (ValueError, msgpack.UnpackException):
            return False
        return self.open(kind, peer_id, value, record.expiration_time) is not None

    def open(self, kind: type[R], peer_id: object, value: object, expires_at_s: float | None) -> R | None:
        """The record inside, or None where anything about it is wrong; `expires_at_s` as the DHT says, if it does."""
        if not isinstance(peer_id, str) or not isinstance(value, bytes):
            return None
        try:
            record, signer = unseal(value, kind)
            certificate = self._membership.check(record.certificate, signer, time.time())
        except (ProtocolError, AdmissionError):
            return None
        role = _ROLE_OF[kind]
        said_s = record.expires_at_s if expires_at_s is None else expires_at_s
        lives = time.time() < said_s <= time.time() + LIFETIME_S + _MAX_CLOCK_ERROR_S
        wrong = signer != peer_id or not lives or not abs(record.expires_at_s - said_s) <= 1e-3
        return None if wrong or (role is not None and role not in certificate.roles) else record


class _Authorizer(AuthorizerBase):  # type: ignore[misc]
    """Members only: every DHT call and answer is signed by a peer whose certificate comes with it."""

    def __init__(self, identity: Identity, membership: Membership, certificate: bytes) -> None:
        self._identity = identity
        self._membership = membership
        self._certificate = certificate

    async def sign_request(self, request: Any, service_public_key: object) -> None:
        self._introduce(request.auth.client_access_token)
        request.auth.time = time.time()
        request.auth.nonce = secrets.token_bytes(8)
        request.auth.signature = self._identity.sign(request.SerializeToString())

    async def validate_request(self, request: Any) -> bool:
        recent = abs(request.auth.time - time.time()) <= _MAX_CLOCK_ERROR_S
        return recent and self._is_member(request, request.auth.client_access_token)

    async def sign_response(self, response: Any, request: Any) -> None:
        self._introduce(response.auth.service_access_token)
        response.auth.nonce = request.auth.nonce
        response.auth.signature = self._identity.sign(response.SerializeToString())

    async def validate_response(self, response: Any, request: Any) -> bool:
        same = response.auth.nonce == request.auth.nonce
        return same and self._is_member(response, response.auth.service_access_token)

    def _introduce(self, token: Any) -> None:
        token.username = self._identity.peer_id
        token.signature = self._certificate

    def _is_member(self, message: Any, token: Any) -> bool:
        try:
            self._membership.check(token.signature, token.username, time.time())
        except (AdmissionError, ProtocolError):
            return False
        signature = message.auth.signature
        message.auth.signature = b""
        return verify(token.username, message.SerializeToString(), signature)
