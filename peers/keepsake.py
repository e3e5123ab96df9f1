"""What a member keeps of its admission and of the way to others, so that it can come back without an invite."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from swarm.admission import Certificate, unseal
from swarm.config import BYTE_TOKENIZER, RunConfig
from swarm.data.tokenizer import identify
from swarm.durable import keeping
from swarm.errors import SwarmError
from swarm.net.admitting import Admission

_MOST_ADDRESSES = 24


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
        self._addresses = folder / "addresses.json"
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

    def addresses(self) -> tuple[str, ...]:
        """Of members that were there last, schedulers first."""
        try:
            found = json.loads(self._addresses.read_bytes())
        except (OSError, ValueError):
            return ()
        return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()

    def keep_addresses(self, addresses: Iterable[str]) -> None:
        """Put them on the disk, if they are new."""
        wanted = tuple(dict.fromkeys(addresses))[:_MOST_ADDRESSES]
        if wanted and wanted != self.addresses():
            with keeping(self._addresses) as file:
                file.write(json.dumps(wanted).encode())
