"""How the people on a machine talk to the peer that runs there: a Unix socket in its folder, one JSON line each way.

Only the user who started the peer may open it. A request is {"verb": ..., and its arguments}; a reply is the verb's
answer, or {"code": ..., "problem": ..., "remedy": ...}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from swarm.errors import NotRunning, ProtocolError, SwarmError, retold

_NAME = "control.sock"
_MAX_LINE_BYTES = 1 << 16
_PATIENCE_S = 10.0
"""A peer that does not answer within this is stopped or stuck; its loop is never busy for long."""

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Carries out a verb with its arguments; raises SwarmError."""


@contextlib.asynccontextmanager
async def answering(folder: Path, answer: Answer) -> AsyncIterator[None]:
    """Answer on the folder's socket; what a peer that was killed left of its own is replaced.

    Args:
        folder: held by this process alone (`swarm.exclusive`).
    """
    path = folder / _NAME
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(folder) as address:
        listener.bind(address)
    path.chmod(0o600)  # before anybody can connect

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):  # whoever asked is gone
            async with asyncio.timeout(_PATIENCE_S):
                writer.write(json.dumps(await _reply(reader, answer)).encode() + b"\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, sock=listener, limit=_MAX_LINE_BYTES)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _reply(reader: asyncio.StreamReader, answer: Answer) -> dict[str, Any]:
    try:
        request = _parse(await _line(reader))
        verb = request.pop("verb", "")
        return answer(str(verb), request)
    except SwarmError as error:
        return {"code": error.code, "problem": error.problem, "remedy": error.remedy}


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise ProtocolError(f"a request is longer than {_MAX_LINE_BYTES} bytes", "send one line of JSON") from None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ProtocolError("what came is not a line of JSON with an object", "use this version's `swarm`")
    return found


def ask(folder: Path, verb: str, **arguments: Any) -> dict[str, Any]:
    """Ask the peer whose folder this is.

    Args:
        verb: that it knows.

    Returns:
        Its answer.

    Raises:
        NotRunning: no peer answers there.
        SwarmError: what the peer refused with, under its own number.
    """
    request = json.dumps({"verb": verb} | arguments).encode() + b"\n"
    try:
        with _short(folder) as address, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE_S)
            connection.connect(address)
            connection.sendall(request)
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except TimeoutError:
        raise NotRunning(f"the peer of {folder} does not answer", "look whether it is stopped, or stop it") from None
    except PermissionError:
        raise NotRunning(f"the peer of {folder} belongs to another user", "ask as the user who started it") from None
    except (OSError, ValueError):
        raise NotRunning(
            f"no peer that has joined runs with the folder {folder}",
            "start it with `swarm join`, or name its folder with --state-dir",
        ) from None
    if "code" in answer:
        raise retold(answer["code"], answer["problem"], answer["remedy"])
    return dict(answer)


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """The socket's address: a path of any length, where the system takes 107 bytes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)
