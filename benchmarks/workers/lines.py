"""Worker processes of benchmarks: JSON lines in, one JSON line out for each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swarm.errors import RunError
from swarm.local.fleet import end_with_parent

Line = dict[str, Any]
Action = Callable[[Line], Line]
AsyncAction = Callable[[Line], Awaitable[Line]]


class Worker:
    """A process that answers lines.

    Args:
        module: its program.
        environment: added to ours.
        errors: gets what it says on standard error; None to drop it.
        wrapper: what runs Python, such as a command that enters a network namespace.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        errors: Path | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.module = module
        with contextlib.ExitStack() as stack:
            log = subprocess.DEVNULL if errors is None else stack.enter_context(errors.open("wb"))
            self._process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"} | dict(environment or {}),
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def tell(self, line: Line) -> None:
        """Send a line; raises RunError where the worker is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._mute(line) from None

    def hear(self, line: Line, deadline_s: float) -> Line:
        """The answer to a line that was sent; raises RunError where none comes by then (of `time.monotonic`)."""
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(stdout, selectors.EVENT_READ)
            text = stdout.readline() if ready.select(max(0.0, deadline_s - time.monotonic())) else b""
        if not text:
            raise self._mute(line)
        answer: Line = json.loads(text)
        return answer

    def ask(self, line: Line, timeout_s: float) -> Line:
        """Send a line and wait for the answer; raises RunError."""
        return ask_all([self], line, timeout_s)[0]

    def close(self) -> None:
        """End it, and whatever it forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _mute(self, line: Line) -> RunError:
        return RunError(f"{self.module} did not answer {line.get('do')!r}", "run it by hand and look")


def ask_all(workers: Sequence[Worker], line: Line, timeout_s: float) -> list[Line]:
    """Send the same line to all, then wait for all answers; raises RunError."""
    deadline_s = time.monotonic() + timeout_s
    for worker in workers:
        worker.tell(line)
    return [worker.hear(line, deadline_s) for worker in workers]


def lines() -> Iterator[Line]:
    """In a worker: what it is told, until standard input ends."""
    for text in sys.stdin:
        yield json.loads(text)


def answer(line: Line) -> None:
    """In a worker: the answer to the last line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def serve(actions: Mapping[str, Action]) -> None:
    """In a worker: answer every line by the action that it names."""
    for line in lines():
        answer(actions[line["do"]](line))


async def serve_async(actions: Mapping[str, AsyncAction]) -> None:
    """As `serve`, for actions that need the event loop, which goes on between lines."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while text := await reader.readline():
        line = json.loads(text)
        answer(await actions[line["do"]](line))
