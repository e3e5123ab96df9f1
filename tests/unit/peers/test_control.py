"""The control socket: for its user only, one line each way, and errors with their numbers."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from peers.control import answering, ask
from swarm.errors import NotRunning, ProtocolError, RunError


def answer(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if verb == "fail":
        raise RunError("it cannot", "do not")
    return {"did": verb} | arguments


def asking(folder: Path, verb: str, **arguments: Any) -> dict[str, Any]:
    """Ask a peer that answers in a loop beside."""

    async def main() -> dict[str, Any]:
        async with answering(folder, answer):
            return await asyncio.to_thread(ask, folder, verb, **arguments)

    return asyncio.run(main())


def test_a_verb_and_its_arguments_are_answered(tmp_path: Path) -> None:
    assert asking(tmp_path, "leave", now=True) == {"did": "leave", "now": True}
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_folder_with_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    assert asking(folder, "me") == {"did": "me"}


def test_a_refusal_keeps_its_number_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\[S700\] it cannot; do not\."):
        asking(tmp_path, "fail")


def test_only_its_user_may_open_it(tmp_path: Path) -> None:
    async def mode() -> int:
        async with answering(tmp_path, answer):
            return stat.S_IMODE((tmp_path / "control.sock").stat().st_mode)

    assert asyncio.run(mode()) == 0o600


def test_what_a_killed_peer_left_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "control.sock"))
    left.close()
    with pytest.raises(NotRunning, match="no peer that has joined"):
        ask(tmp_path, "me")
    assert asking(tmp_path, "me") == {"did": "me"}


def test_no_peer_and_no_folder_are_told_with_a_remedy(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotRunning, match=r"S205.*swarm join.*--state-dir"):
            ask(folder, "me")


def test_a_peer_that_is_stuck_does_not_keep_its_user_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peers.control._PATIENCE_S", 0.05)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        with pytest.raises(NotRunning, match="does not answer"):
            ask(tmp_path, "me")


@pytest.mark.parametrize("line", [b"\n", b"[1]\n", b"{\n", b"x" * (1 << 17) + b"\n", b""])
def test_what_is_no_request_is_refused_and_others_are_answered(tmp_path: Path, line: bytes) -> None:
    def send() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "control.sock"))
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as lines:
                return lines.readline()

    async def main() -> bytes:
        async with answering(tmp_path, answer):
            found = await asyncio.to_thread(send)
            assert await asyncio.to_thread(ask, tmp_path, "me") == {"did": "me"}
            return found

    assert ProtocolError.code.encode() in asyncio.run(main())


def test_a_reply_that_is_cut_short_is_no_answer(tmp_path: Path) -> None:
    def cut(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(1)
        connection.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=cut, args=(listener,))
        thread.start()
        with pytest.raises(NotRunning):
            ask(tmp_path, "me")
        thread.join()
