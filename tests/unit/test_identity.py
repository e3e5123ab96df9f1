"""Keys, peer ids and signatures."""

from __future__ import annotations

import stat
from pathlib import Path

import base58
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import ConfigError
from swarm.identity import Identity, peer_id_of, verify

_ME = Identity.generate()


def test_a_key_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "identity.key"
    made = Identity.load_or_create(path)
    again = Identity.load_or_create(path)
    assert again.peer_id == made.peer_id
    assert again.public_key == made.public_key
    assert verify(made.peer_id, b"x", again.sign(b"x"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Identity.generate().save(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        Identity.generate().save(path)
    assert path.read_bytes() == before


def test_a_missing_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the key"):
        Identity.load(tmp_path / "none")


def test_every_changed_or_missing_byte_of_a_key_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    _ME.save(path)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ConfigError, match=r"is damaged|is not an Ed25519 key"):
            Identity.load(path)
    for wrong in (content[:-1], content + b"\0", b""):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match="is not an Ed25519 key"):
            Identity.load(path)


def test_the_peer_id_is_that_of_the_public_key() -> None:
    assert peer_id_of(_ME.public_key) == _ME.peer_id
    assert _ME.peer_id.startswith("12D3Koo")


@pytest.mark.parametrize("key", ["", "zz", "00" * 31, "00" * 33, "é" * 64])
def test_what_is_no_public_key_has_no_peer_id(key: str) -> None:
    with pytest.raises(ConfigError, match="not 32 bytes of hex"):
        peer_id_of(key)


@settings(deadline=None)
@given(st.binary(max_size=64), st.integers(0, 511))
def test_a_signature_holds_for_its_message_only(message: bytes, bit: int) -> None:
    signature = bytearray(_ME.sign(message))
    assert verify(_ME.peer_id, message, bytes(signature))
    assert not verify(_ME.peer_id, message + b"!", bytes(signature))
    assert not verify(Identity.generate().peer_id, message, bytes(signature))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(_ME.peer_id, message, bytes(signature))


@settings(deadline=None)
@given(st.text(max_size=80), st.binary(max_size=70))
def test_nothing_that_claims_to_be_an_id_raises(peer_id: str, signature: bytes) -> None:
    assert not verify(peer_id, b"message", signature)


def test_a_short_signature_or_a_longer_id_is_no_error() -> None:
    assert not verify(_ME.peer_id, b"m", b"")
    assert not verify(_ME.peer_id + "1", b"m", _ME.sign(b"m"))
    assert not verify("1" + _ME.peer_id, b"m", _ME.sign(b"m"))


def test_an_endless_id_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Base58 takes quadratic time: a mebibyte of it, which a stranger may send, would stop a peer for minutes."""
    monkeypatch.setattr(base58, "b58decode", lambda text: pytest.fail("it was decoded"))
    assert not verify("z" * (1 << 20), b"m", b"s" * 64)
