"""The dashboard's process beside a scheduler: RUN_DIR [HOST:]PORT. Tells its events as JSON lines."""

from __future__ import annotations

import sys
from pathlib import Path

from scheduler.dashboard.server import parse_address, serve
from scheduler.run_dir import RunDir
from swarm.errors import SwarmError
from swarm.telemetry import Teller

if __name__ == "__main__":
    tell = Teller(as_json=True).tell
    try:
        serve(RunDir(Path(sys.argv[1])), *parse_address(sys.argv[2]), tell)
    except SwarmError as error:
        tell({"event": "warning", "problem": str(error)})
        sys.exit(error.exit_code)
