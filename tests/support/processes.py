"""The console command as its users run it: a process with an exit status and last words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_LIMIT_S = 120.0
MODULE = ("-m", "swarm")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    status: int
    errors: str

    def succeeded(self) -> None:
        """Check that it ended well."""
        assert self.status == 0, self.errors

    def failed_with(self, code: str) -> str:
        """Check that it ended with one numbered sentence and the status that belongs to it; returns the sentence."""
        assert "Traceback" not in self.errors, self.errors
        numbered = [line for line in self.errors.splitlines() if re.match(r"\[S\d{3}\] ", line)]
        assert len(numbered) == 1, self.errors
        assert numbered[0].startswith(f"[{code}] "), self.errors
        assert numbered[0].endswith(".")
        assert self.status == 10 + int(code[1]), self.errors
        return numbered[0]


def run_command(*arguments: str, command: Sequence[str] = MODULE) -> Ended:
    """Run `swarm` to its end."""
    finished = subprocess.run(
        [sys.executable, *command, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        timeout=_LIMIT_S,
        check=False,
    )
    return Ended(finished.returncode, finished.stderr.decode(errors="replace"))
