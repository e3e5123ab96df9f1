"""What a member keeps of its admission and of the way to others, so that it can come back without an invite."""

from __future__ import annotations

from pathlib import Path

from swarm.address_book import AddressBook
from swarm.admission import Certificate, unseal
from swarm.config import BYTE_TOKENIZER, RunConfig
from swarm.data.tokenizer import identify
from swarm.durable import keeping
from swarm.errors import SwarmError
from swarm.net.admitting import Admission


class Keepsake:
    """Files in the peer's folder of one run.

    Args:
        folder: made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._certificate = folder / "certificate"
        self._run = folder / "run.json"
        self._tokenizer = folder / "tokenizer.json"
        self.addresses = AddressBook(folder / "addresses.json")
        self._revoked = folder / "revoked"

    def admission(self, fingerprint: str) -> Admission | None:
        """What we were admitted with; None where that is not here, or damaged: an invite brings it again."""
        try:
            config = RunConfig.from_json(self._run.read_text(encoding="utf-8"))
            tokenizer = self._tokenizer.read_bytes()
            certificate = self._certificate.read_bytes()
            unseal(certificate, Certificate)
            identity = identify(tokenizer.decode()) if tokenizer else BYTE_TOKENIZER
        except (OSError, UnicodeDecodeError, SwarmError):
            return None
        is_whole = config.fingerprint == fingerprint and config.data.tokenizer == identity
        return Admission(certificate, config, tokenizer) if is_whole else None

    def keep(self, admission: Admission) -> None:
        """Put it on the disk."""
        for path, content in (
            (self._run, admission.config.to_json().encode()),
            (self._tokenizer, admission.tokenizer),
            (self._certificate, admission.certificate),  # last: it says that the others are whole
        ):
            with keeping(path) as file:
                file.write(content)

    def revoked(self) -> bytes:
        """The newest list of members that the admin sent away, sealed; empty where there is none."""
        return self._revoked.read_bytes() if self._revoked.exists() else b""

    def keep_revoked(self, sealed: bytes) -> None:
        """Put it on the disk."""
        with keeping(self._revoked) as file:
            file.write(sealed)
