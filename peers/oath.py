"""The leader that a member granted a term, on disk: a restart must not make it grant that term to another one."""

from __future__ import annotations

import json
from pathlib import Path

from peers.allegiance import Allegiance
from swarm.durable import keeping, with_checksum, without_checksum
from swarm.errors import ConfigError


class Oath:
    """Whom this member obeys, also after a restart.

    Args:
        path: of the file; its folder is made if it is missing.

    Raises:
        ConfigError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.allegiance = self._load()

    def save(self) -> None:
        """Put it on the disk."""
        text = json.dumps({"term": self.allegiance.term, "leader": self.allegiance.leader}).encode()
        with keeping(self._path) as file:
            file.write(with_checksum(text))

    def _load(self) -> Allegiance:
        if not self._path.exists():
            return Allegiance()
        try:
            # Without the checksum, one changed digit would be another term.
            found = json.loads(without_checksum(self._path.read_bytes()) or b"")
            term, leader = found["term"], found["leader"]
        except (OSError, ValueError, KeyError, TypeError):
            term, leader = None, None
        if type(term) is not int or term < 0 or type(leader) is not str:
            raise ConfigError(f"{self._path} is damaged", "remove it, and join again while no election is on")
        return Allegiance(term, leader)
