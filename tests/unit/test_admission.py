"""Invites and certificates: whatever is not exactly what the admin signed is refused."""

from __future__ import annotations

import base64
import string
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.admission import Certificate, Invite, Membership, Revoked, read_invite, seal, unseal, write_invite
from swarm.errors import AdmissionError, InviteExpired, InviteInvalid, NotAMember, ProtocolError, RunMismatch
from swarm.identity import Identity
from swarm.wire import codec
from swarm.wire.messages import Ack
from tests.support.runs import Run

RUN = Run()
ME = Identity.generate()
TEXT = write_invite(RUN.admin, RUN.invite("host", bootstrap=("/ip4/1.2.3.4/tcp/1/p2p/x",)))


# --- seals -----------------------------------------------------------------------------------------------------------


def test_a_seal_gives_back_its_message_and_signer() -> None:
    assert unseal(seal(ME, Ack()), Ack) == (Ack(), ME.peer_id)


def test_a_seal_around_another_kind_is_refused() -> None:
    with pytest.raises(ProtocolError, match="is a Ack, not a Certificate"):
        unseal(seal(ME, Ack()), Certificate)
    with pytest.raises(ProtocolError, match="no valid signature"):
        unseal(codec.encode(Ack()), Ack)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_byte_of_a_seal_can_be_changed(data: st.DataObject) -> None:
    sealed = bytearray(RUN.certificate(ME))
    position = data.draw(st.integers(0, len(sealed) - 1))
    sealed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError):
        unseal(bytes(sealed), Certificate)


# --- invites ---------------------------------------------------------------------------------------------------------


def test_an_invite_survives_being_pasted() -> None:
    invite = RUN.invite("host", "owner")
    assert read_invite(f"  {write_invite(RUN.admin, invite)}\n", time.time()) == invite


def test_an_invite_with_any_one_character_changed_is_refused() -> None:
    alphabet = string.ascii_letters + string.digits + "-_+/= é\n"
    for position, original in enumerate(TEXT):
        for character in (alphabet[position % len(alphabet)], alphabet[(7 * position + 3) % len(alphabet)], "A", "é"):
            edited = TEXT[:position] + character + TEXT[position + 1 :]
            if character == original or edited.strip() == TEXT:
                continue
            with pytest.raises(InviteInvalid, match=r"\[S301\]"):
                read_invite(edited, time.time())


def test_the_last_character_has_one_spelling() -> None:
    """Base64 ignores the last character's lowest bits where they stand for no byte."""
    read = 0
    for number in range(4):
        text = write_invite(RUN.admin, replace(RUN.invite(), nonce=b"n" * number))
        for character in string.ascii_letters + string.digits + "-_":
            if character != text[-1]:
                with pytest.raises(InviteInvalid):
                    read_invite(text[:-1] + character, time.time())
                read += 1
    assert read == 4 * 63


@pytest.mark.parametrize("edit", [lambda t: t[:-1], lambda t: t + "A", lambda t: t[:40] + t[41:], lambda t: t[7:]])
def test_an_invite_with_a_character_too_few_or_too_many_is_refused(edit: object) -> None:
    assert callable(edit)
    with pytest.raises(InviteInvalid):
        read_invite(edit(TEXT), time.time())


@pytest.mark.parametrize("text", ["", "hello", "swarm1-", "swarm2-" + TEXT[7:], "swarm1-é", "swarm1-AAAA"])
def test_what_is_no_invite_says_so(text: str) -> None:
    with pytest.raises(InviteInvalid):
        read_invite(text, time.time())


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_at_all_breaks_the_reader(text: str) -> None:
    for candidate in (text, "swarm1-" + text):
        with pytest.raises(InviteInvalid):
            read_invite(candidate, 0.0)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_in_an_invite_break_the_reader(data: bytes) -> None:
    with pytest.raises(InviteInvalid):
        read_invite("swarm1-" + base64.urlsafe_b64encode(data).decode().rstrip("="), 0.0)


def test_an_invite_that_somebody_else_signed_is_forged() -> None:
    with pytest.raises(InviteInvalid, match="damaged or forged"):
        read_invite(write_invite(ME, RUN.invite()), time.time())


def test_an_invite_that_names_no_key_is_forged() -> None:
    with pytest.raises(InviteInvalid):
        read_invite(write_invite(ME, replace(RUN.invite(), admin_public_key="nobody")), time.time())


def test_a_certificate_is_no_invite() -> None:
    text = "swarm1-" + base64.urlsafe_b64encode(RUN.certificate(ME)).decode().rstrip("=")
    with pytest.raises(InviteInvalid):
        read_invite(text, time.time())


def test_an_invite_ends() -> None:
    invite = RUN.invite()
    text = write_invite(RUN.admin, invite)
    assert read_invite(text, invite.expires_at_s) == invite
    with pytest.raises(InviteExpired, match=r"\[S302\].*expired 5 s ago"):
        read_invite(text, invite.expires_at_s + 5)


@pytest.mark.parametrize("roles", [(), ("admin",), ("host", "root")])
def test_an_invite_has_known_roles(roles: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="roles are"):
        replace(RUN.invite(), roles=roles)


# --- certificates ----------------------------------------------------------------------------------------------------


def _refusal(certificate: bytes, peer: Identity = ME, now_s: float | None = None) -> AdmissionError:
    with pytest.raises(AdmissionError) as caught:
        RUN.membership.check(certificate, peer.peer_id, time.time() if now_s is None else now_s)
    return caught.value


def test_a_member_is_let_in_with_its_roles() -> None:
    found = RUN.membership.check(RUN.certificate(ME, "owner", "host"), ME.peer_id, time.time())
    assert (found.peer_id, found.roles) == (ME.peer_id, ("owner", "host"))


def test_no_certificate() -> None:
    assert "shows no certificate" in _refusal(b"").problem


def test_a_damaged_certificate() -> None:
    certificate = bytearray(RUN.certificate(ME))
    for position in range(len(certificate)):
        damaged = certificate.copy()
        damaged[position] ^= 0x20
        error = _refusal(bytes(damaged))
        assert isinstance(error, NotAMember)
        assert "damaged certificate" in error.problem


def test_a_certificate_by_another_admin() -> None:
    assert "not its own" in _refusal(RUN.certificate(ME, signer=Identity.generate())).problem


def test_a_certificate_that_a_peer_wrote_itself() -> None:
    assert "not its own" in _refusal(RUN.certificate(ME, "scheduler", signer=ME)).problem


def test_another_peers_certificate() -> None:
    assert "not its own" in _refusal(RUN.certificate(Identity.generate())).problem


def test_an_expired_certificate() -> None:
    error = _refusal(RUN.certificate(ME, lives_s=10), now_s=time.time() + 11)
    assert "has expired" in error.problem
    assert isinstance(error, NotAMember)


def test_a_certificate_of_another_run_of_the_same_admin() -> None:
    other = Run(admin=RUN.admin, sections={"seed": 2})
    error = _refusal(other.certificate(ME))
    assert isinstance(error, RunMismatch)
    assert other.config.fingerprint[:12] in error.problem
    assert RUN.config.fingerprint[:12] in error.problem


def test_an_invite_is_no_certificate() -> None:
    assert "damaged" in _refusal(seal(RUN.admin, RUN.invite())).problem


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_no_bytes_are_a_certificate(certificate: bytes) -> None:
    _refusal(certificate)


def test_an_invite_is_what_its_type_says() -> None:
    assert isinstance(unseal(seal(RUN.admin, RUN.invite()), Invite)[0], Invite)


def test_a_revoked_member_is_refused_whatever_is_shown_later() -> None:
    run = Run()
    good, bad, other = (Identity.generate() for _ in range(3))
    membership = Membership(run.config.fingerprint, run.admin.public_key)
    certificates = {
        each.peer_id: seal(
            run.admin,
            Certificate(
                fingerprint=run.config.fingerprint, peer_id=each.peer_id, roles=("host",), expires_at_s=time.time() + 60
            ),
        )
        for each in (good, bad, other)
    }

    def revoked(*peers: Identity, by: Identity = run.admin, fingerprint: str = run.config.fingerprint) -> bytes:
        return seal(by, Revoked(fingerprint=fingerprint, peers=tuple(each.peer_id for each in peers)))

    assert membership.revoke(revoked(bad)) == {bad.peer_id}
    for forged in (revoked(good, by=bad), revoked(good, fingerprint="another"), b"", certificates[good.peer_id]):
        with pytest.raises(ProtocolError):
            membership.revoke(forged)
    assert membership.revoke(revoked(other)) == {other.peer_id}, "lists add up"
    assert membership.revoke(revoked()) == frozenset(), "an old list changes nothing"
    for each in (bad, other):
        with pytest.raises(NotAMember, match="revoked"):
            membership.check(certificates[each.peer_id], each.peer_id, time.time())
    assert membership.check(certificates[good.peer_id], good.peer_id, time.time()).roles == ("host",)
