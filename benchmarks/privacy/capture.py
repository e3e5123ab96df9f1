"""Building the capture shim, and starting a process under it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from swarm.errors import RunError

_SOURCE = Path(__file__).with_name("capture.c")


class Capture:
    """The shim, compiled, and a folder a captured process.

    Args:
        folder: a temporary one; everything is kept in it.

    Raises:
        RunError: no C compiler, or it refuses.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = _compile(folder / "capture.so")

    def variables(self, name: str) -> dict[str, str]:
        """Environment variables that put a process under the shim.

        Args:
            name: of the process's folder; made if it is missing.
        """
        kept = self._folder / name
        kept.mkdir(parents=True, exist_ok=True)
        return {"LD_PRELOAD": str(self._library), "SWARM_BENCH_CAPTURE": str(kept)}

    def files(self, name: str) -> list[Path]:
        """What the process handed out so far, one file for each of its descriptors."""
        return sorted((self._folder / name).glob("*.bytes"))

    def num_bytes(self, name: str) -> int:
        """How much that is."""
        return sum(file.stat().st_size for file in self.files(name))

    def streams(self, name: str) -> Iterator[tuple[str, bytes]]:
        """Name and content of each file."""
        for file in self.files(name):
            yield file.name, file.read_bytes()


def _compile(library: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise RunError("there is no C compiler, which capturing an owner's bytes needs", "install gcc or clang")
    command = [compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"the C compiler does not run ({error})", "repair it, or install another") from None
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise RunError(f"the capture shim does not compile ({problem})", "it needs Linux and glibc")
    return library
