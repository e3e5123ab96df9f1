"""Where members of a run were last: to come back by, when those whom the invite names are away."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from swarm.durable import keeping

_MOST_ADDRESSES = 24


class AddressBook:
    """One file.

    Args:
        path: of it; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[str, ...]:
        """Of members that were there last, schedulers first; none where the file is not there, or damaged."""
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return ()
        return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()

    def keep(self, addresses: Iterable[str]) -> None:
        """Put them on the disk, if they are new; raises DiskRefused."""
        wanted = tuple(dict.fromkeys(addresses))[:_MOST_ADDRESSES]
        if wanted and wanted != self.read():
            with keeping(self._path) as file:
                file.write(json.dumps(wanted).encode())
