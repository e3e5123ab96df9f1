"""Who signs: Ed25519 keys of peers and of the admin.

A peer's id is the libp2p id of its key, so whoever knows the id can check the peer's signatures: no key has to be
sent, and a record cannot be signed by anybody else.
Source: libp2p peer-ids specification (identity multihash of the public key's protobuf for Ed25519).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from swarm.durable import keeping
from swarm.errors import ConfigError

_PUBLIC_PREFIX = bytes.fromhex("002408011220")  # identity multihash of 36 bytes; key type 1 (Ed25519), 32 bytes
_PRIVATE_PREFIX = bytes.fromhex("08011240")  # key type 1 (Ed25519), 64 bytes: private then public
_MAX_ID_CHARACTERS = 64  # base58 takes quadratic time, and strangers send ids too; ours have 52
_FILE_BYTES = len(_PRIVATE_PREFIX) + 64


class Identity:
    """A private key and the peer id that belongs to it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.peer_id: str = base58.b58encode(_PUBLIC_PREFIX + self._public).decode()

    @classmethod
    def generate(cls) -> Identity:
        """A new key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """Read the key file (libp2p's private-key protobuf, which the daemon reads too), or write a new one.

        Raises:
            ConfigError: unreadable or not such a key.
        """
        if not path.exists():
            identity = cls.generate()
            identity.save(path)
            return identity
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read the key file; errors as in `load_or_create`."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the key {path} ({error})", "check the path and its permissions") from None
        if len(content) != _FILE_BYTES or not content.startswith(_PRIVATE_PREFIX):
            raise ConfigError(f"{path} is not an Ed25519 key", "restore it from a backup, or remove it for a new one")
        identity = cls(Ed25519PrivateKey.from_private_bytes(content[len(_PRIVATE_PREFIX) :][:32]))
        if content[-32:] != identity._public:
            raise ConfigError(f"{path} is damaged", "restore it from a backup, or remove it for a new one")
        return identity

    def save(self, path: Path) -> None:
        """Write the key file, readable by its owner only; whole or not at all.

        Raises:
            FileExistsError: keys are never replaced.
            DiskRefused: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        raw = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        with keeping(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(_PRIVATE_PREFIX + raw + self._public)

    @property
    def public_key(self) -> str:
        """The raw public key, hex."""
        return self._public.hex()

    def sign(self, message: bytes) -> bytes:
        """64 bytes of signature."""
        return self._key.sign(message)


def peer_id_of(public_key: str) -> str:
    """The peer id of a raw public key in hex.

    Raises:
        ConfigError: not 32 bytes of hex.
    """
    try:
        raw = bytes.fromhex(public_key)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise ConfigError(f"the public key {public_key!r} is not 32 bytes of hex", "copy it again")
    return str(base58.b58encode(_PUBLIC_PREFIX + raw).decode())


def verify(peer_id: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` was made by the key behind `peer_id`."""
    if len(peer_id) > _MAX_ID_CHARACTERS:
        return False
    try:
        raw = base58.b58decode(peer_id)
    except ValueError:
        return False
    if len(raw) != len(_PUBLIC_PREFIX) + 32 or not raw.startswith(_PUBLIC_PREFIX):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(raw[len(_PUBLIC_PREFIX) :]).verify(signature, message)
    except InvalidSignature:
        return False
    return True
