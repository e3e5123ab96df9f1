"""What a machine says when it has no more of something, in our numbered words."""

from __future__ import annotations

import errno

from swarm.errors import MachineLimit

_MEMORY = "close other programs, or join with a lower --memory-mib so that this peer is given less"
_REMEDIES = {
    errno.EMFILE: "raise the limit of open files, as with `ulimit -n 4096`",
    errno.ENFILE: "close other programs: the whole machine has too many files open",
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free space in this user's quota",
    errno.ENOMEM: _MEMORY,
}


def limit_of(error: BaseException) -> MachineLimit | None:
    """The limit that an error of the system or a library speaks of; None where it is another error."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        where = f" at {error.filename}" if error.filename else ""
        return MachineLimit(f"this machine says: {error.strerror}{where}", _REMEDIES[error.errno])
    if isinstance(error, MemoryError) or _is_torchs(error):
        words = str(error).strip().splitlines() or ["out of memory"]
        return MachineLimit(f"this machine has too little memory ({words[0]})", _MEMORY)
    return None


def _is_torchs(error: BaseException) -> bool:
    """torch has a class for a GPU's memory, and only words for the CPU's."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error)
    )
