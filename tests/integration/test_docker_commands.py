"""What the compose file starts in containers, started without them: the same command lines and health checks."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.corpora import write_random_shards
from swarm.local.fleet import Program
from tests.support.command_line import SOURCES
from tests.support.processes import run_command

PATIENCE_S = 240.0
LOOK_S = 0.2
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((SOURCES / "docker" / "compose.yaml").read_text())["services"]
PLACES = {"4001": "0", "0.0.0.0:8080": "127.0.0.1:0", "0.0.0.0": "127.0.0.1"}  # noqa: S104 - not bound
"""A container has ports and a network of its own; tests take free ones, and stay on loopback."""


@dataclass(frozen=True, slots=True)
class Container:
    """One service's place on this machine: its folders are those of the volumes that it would have."""

    service: str
    number: int
    folder: Path

    @property
    def _folders(self) -> dict[str, Path]:
        found = {"/tmp": self.folder / f"{self.service}-{self.number}-tmp"}
        for volume in SERVICES[self.service].get("volumes", ()):
            source, target = volume.split(":")[:2]
            found[target.replace("/home/swarm/", "")] = self.folder / source
        return found

    def _here(self, word: str) -> str:
        for inside, outside in self._folders.items():
            if word == inside or word.startswith(inside + "/"):
                outside.mkdir(exist_ok=True, parents=True)
                return str(outside) + word.removeprefix(inside)
        return PLACES.get(word, word)

    @property
    def command(self) -> list[str]:
        """What the entry point is given."""
        return [self._here(word) for word in SERVICES[self.service]["command"]]

    def start(self) -> Program:
        return Program(f"{self.service}-{self.number}", self.command, self.folder / "logs")

    def is_healthy(self) -> bool:
        kind, *words = SERVICES[self.service]["healthcheck"]["test"]
        if kind == "CMD":
            assert words[0] == "swarm"
            return run_command(*map(self._here, words[1:])).status == 0
        text = words[0].replace("$$", "$")
        for inside, outside in self._folders.items():
            text = text.replace(f" {inside}/", f" {shlex.quote(str(outside))}/").replace(
                f"({inside}/", f"({shlex.quote(str(outside))}/"
            )
        return subprocess.run(["sh", "-c", text], timeout=PATIENCE_S, check=False).returncode == 0


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("warm_starts")
def test_the_commands_of_the_compose_file_train_and_its_health_checks_tell(tmp_path: Path) -> None:
    run_command(*Container("init", 0, tmp_path).command).succeeded()
    write_random_shards(tmp_path / "data", 1, 1, 100_000)
    leads = Container("scheduler", 0, tmp_path)
    peers = [Container("owner", 0, tmp_path), Container("host", 0, tmp_path), Container("host", 1, tmp_path)]
    assert SERVICES["host"]["deploy"]["replicas"] == 2
    with contextlib.ExitStack() as stack:
        scheduler = leads.start()
        stack.callback(scheduler.stop)
        assert not peers[0].is_healthy(), "nobody is there"
        scheduler.wait_for("dashboard", timeout_s=PATIENCE_S)  # it is told once the scheduler listens
        deadline_s = time.monotonic() + PATIENCE_S
        while not leads.is_healthy():
            assert time.monotonic() < deadline_s
            time.sleep(LOOK_S)
        for peer in peers:
            program = peer.start()
            stack.callback(program.stop)
            scheduler.companions.append(program)
        scheduler.wait_for("step", timeout_s=PATIENCE_S)
        assert all(peer.is_healthy() for peer in peers)
    os.utime(tmp_path / "run" / "run" / "status.json", (0, 0))
    assert not leads.is_healthy(), "its status is old"
