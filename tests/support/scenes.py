"""Runs a scene of gossip_scenes.py to its end."""

from __future__ import annotations

import subprocess
import sys

_LIMIT_S = 150.0


def play(*arguments: str) -> None:
    """Fails with the scene's last words."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.gossip_scenes", *arguments],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
