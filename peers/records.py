"""The ledgers of committed steps that a member keeps for schedulers that may have to take over: small files.

record-00000064.bin     one line of JSON (term, round, norm, hash), then the record as its leader packed it
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swarm.durable import replacing
from swarm.errors import CheckpointError
from swarm.wire.messages import RoundKey

KEPT_STEPS = 4096
"""A standby that was away for longer asks the leader, or leads with a gap in its ledger."""
_PRUNE_EVERY = 64
_NAME = re.compile(r"record-(\d{8,})\.bin")


class Records:
    """Used from one thread at a time.

    Args:
        folder: made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, step: int, key: RoundKey, grad_norm: float, record: bytes) -> None:
        """Keep a committed step's ledger, and forget those of long ago; raises CheckpointError."""
        facts = [key.term, key.round, grad_norm]
        head = json.dumps([*facts, _digest(facts, record)]).encode()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(step)) as file:
                file.write(head + b"\n" + record)
            if step % _PRUNE_EVERY == 0:
                self._remove(lambda kept: kept < step - KEPT_STEPS)
        except OSError as error:
            raise CheckpointError(f"cannot write {self._folder} ({error})", "free space on its disk") from None

    def get(self, step: int) -> tuple[RoundKey, float, bytes] | None:
        """The round, the whole model's gradient norm and the record of a step; None where it is gone or damaged."""
        try:
            head, _, record = self._path(step).read_bytes().partition(b"\n")
            *facts, digest = json.loads(head)
            if _digest(facts, record) != digest:
                return None
            term, number, grad_norm = facts
            return RoundKey(term, number), grad_norm, record
        except (OSError, ValueError, TypeError):
            return None

    def rewind(self, num_steps: int) -> None:
        """The history goes on from this state."""
        self._remove(lambda step: step >= num_steps)

    def _remove(self, is_gone: Callable[[int], bool]) -> None:
        if not self._folder.exists():
            return
        for path in self._folder.iterdir():
            found = _NAME.fullmatch(path.name)
            if found is not None and is_gone(int(found[1])):
                path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self._folder / f"record-{step:08d}.bin"


def _digest(facts: list[Any], record: bytes) -> str:
    return hashlib.sha256(json.dumps(facts).encode() + record).hexdigest()
