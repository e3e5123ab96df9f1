"""A run whose scheduler waits for more members than will ever come: what joining it is refused for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop

from peers.joining import opened
from peers.peer import Peer
from scheduler.new_run import DEFAULT_MODEL, create
from scheduler.run_dir import RunDir, make_invite
from swarm.config import NodeConfig, RunConfig
from swarm.errors import SwarmError
from swarm.local.fleet import Program
from swarm.toml_text import to_toml

SECTIONS = {
    "model": DEFAULT_MODEL,
    "data": {"context_tokens": 32},
    "batch": {"microbatch_sequences": 2, "global_batch_microbatches": 2},
}
MICROBATCH_TOKENS = 64


@dataclass(slots=True)
class Waiting:
    """A run whose scheduler waits for more members than will ever come."""

    folder: RunDir
    program: Program

    @property
    def config(self) -> RunConfig:
        return self.folder.load_config()

    @property
    def peer_id(self) -> str:
        return self.folder.addresses()[0].rpartition("/p2p/")[2]

    def invite(self, *roles: str, uses: int = 50, lifetime_s: float = 600.0) -> str:
        admin = self.folder.load_admin(self.config)
        return make_invite(self.config, admin, self.folder.addresses(), roles, uses, lifetime_s)

    def heard(self, event: str) -> int:
        return sum(found.get("event") == event for found in self.program.events)

    def still_admits(self, state_dir: Path) -> bool:
        """Whether the scheduler does its work after whatever was done to it."""
        return error_of(self.invite("host"), state_dir) is None


def write_config(path: Path, values: dict[str, object]) -> Path:
    path.write_text(to_toml({"name": "test", "admin_public_key": "", **values}, {}), encoding="utf-8")
    return path


@contextlib.contextmanager
def waiting_run(folder: Path) -> Iterator[Waiting]:
    """Start its scheduler, and see that whatever was done to it did not end it."""
    create(folder / "run", "test", write_config(folder / "config.toml", SECTIONS), None)
    arguments = ["scheduler", str(folder / "run"), "--json", "--hosts", "99", "--owners", "99"]
    program = Program("scheduler", arguments, folder / "logs")
    try:
        program.wait_for("listening")
        yield Waiting(RunDir(folder / "run"), program)
        assert program.process.poll() is None, "the scheduler did not survive the tests"
    finally:
        assert program.stop() == 0
    assert "Traceback" not in (folder / "logs" / "scheduler.stderr").read_text(encoding="utf-8")


def error_of(
    invite: str,
    state_dir: Path,
    data: Path | None = None,
    body: Callable[[Peer], Awaitable[None]] | None = None,
    memory_bytes: int = 0,
) -> SwarmError | None:
    """Join in this process; the error, or None where the peer got in and did what `body` says."""

    async def main() -> None:
        node = NodeConfig(state_dir=state_dir, memory_bytes=memory_bytes)
        async with asyncio.timeout(60), opened(invite, node, data, lambda text: None) as peer:
            if body is not None:
                await body(peer)

    try:
        uvloop.run(main())
    except SwarmError as error:
        return error
    except BaseExceptionGroup as group:
        ours, others = group.split(SwarmError)
        if ours is None or others is not None:
            raise
        found = ours.exceptions[0]
        return found if isinstance(found, SwarmError) else None
    return None


def refusal(error: SwarmError | None, code: str) -> str:
    assert error is not None, "it was let in"
    assert str(error).startswith(f"[{code}] "), error
    assert error.exit_code == 10 + int(code[1])
    return str(error)
