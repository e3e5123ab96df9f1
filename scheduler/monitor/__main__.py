"""The monitor's process beside a scheduler: RUN_DIR HOST PORT. Tells its events as JSON lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from scheduler.monitor.process import announce
from scheduler.run_dir import RunDir
from swarm.errors import SwarmError
from swarm.telemetry import Teller

_POLITE = 5
"""Training goes first where processors are scarce."""

if __name__ == "__main__":
    os.nice(_POLITE)
    tell = Teller(as_json=True).tell
    try:
        trio.run(announce, RunDir(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), tell)
    except SwarmError as error:
        tell({"event": "warning", "problem": str(error)})
        sys.exit(error.exit_code)
