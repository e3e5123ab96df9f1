"""The shim sees every way in which our processes hand bytes out, uvloop's included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.privacy.capture import Capture
from swarm.errors import RunError

PROGRAM = """
import asyncio, os, socket, uvloop

async def main():
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    writer.writelines([b"by-uvloop", memoryview(b"long" * 100_000)])
    drained = asyncio.create_task(writer.drain())
    left = 9 + 400_000
    while left:
        left -= len(await asyncio.to_thread(far.recv, 65536))
    await drained
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    await child.communicate(b"to-a-child")
    writer.close()

uvloop.run(main())
near, far = socket.socketpair()
near.send(b"by-send")
near.sendall(b"by-sendall")
near.sendmsg([b"by-", b"sendmsg"])
os.write(near.fileno(), b"by-write")
os.writev(near.fileno(), [b"by-", b"writev"])
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.sendto(b"by-sendto", ("127.0.0.1", 9))
with open(__file__, "rb") as source:
    try:
        os.sendfile(near.fileno(), source.fileno(), 0, 10)
        raise SystemExit("sendfile got past the shim")
    except OSError:
        pass
with open(os.devnull, "wb", buffering=0) as nowhere:
    nowhere.write(b"to-a-file")
print("printed")
"""


@pytest.fixture
def captured(tmp_path: Path) -> dict[str, bytes]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    capture = Capture(tmp_path)
    environment = os.environ | capture.variables("program")
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert capture.num_bytes("program") > 400_000
    return dict(capture.streams("program"))


def test_everything_that_leaves_is_kept(captured: dict[str, bytes]) -> None:
    everything = b"\n".join(captured.values())
    sends = (b"by-send", b"by-sendall", b"by-sendmsg", b"by-write", b"by-writev", b"by-sendto")
    for expected in (b"by-uvloop" + b"long" * 100_000, b"to-a-child", b"printed", *sends):
        assert expected in everything, expected[:20]
    assert b"to-a-file" not in everything


def test_no_compiler_is_a_numbered_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"S700.*no C compiler"):
        Capture(tmp_path)
