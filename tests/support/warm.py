"""Start `swarm` processes without waiting for their imports; see warm_server.py. Looks like `subprocess.Popen`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

MAX_REQUEST_BYTES = 1 << 18
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_START_S = 120.0


class WarmServer:
    """The process that forks, and what is known about its children."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | _THREADS,
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        self._starting = threading.Lock()
        self._changed = threading.Condition()
        self._started: list[int] = []
        self._statuses: dict[int, int] = {}
        self._is_gone = False
        self.starts = 0
        threading.Thread(target=self._read, daemon=True).start()

    def popen(self, arguments: Sequence[str], **options: Any) -> WarmProcess | subprocess.Popen[bytes]:
        """As `subprocess.Popen`; anything but `python -m swarm ...` with one thread starts from nothing.

        `ip netns exec NAME` may come before it.
        """
        environment = options.get("env", os.environ)
        space = ""
        plain = list(arguments)
        if plain[:3] == ["ip", "netns", "exec"]:
            space, plain = plain[3], plain[4:]
        is_swarm = plain[:3] == [sys.executable, "-m", "swarm"]
        if not is_swarm or environment.get("OMP_NUM_THREADS") != "1":
            return subprocess.Popen(arguments, **options)
        read_end, write_end = os.pipe()
        with open(os.devnull, "rb") as nothing:
            pid = self._fork(plain[3:], environment, space, [nothing.fileno(), write_end, options["stderr"].fileno()])
        os.close(write_end)
        return WarmProcess(self, pid, os.fdopen(read_end, "rb"))

    def _fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], space: str, descriptors: list[int]
    ) -> int:
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": os.getcwd()}
        request["space"] = space
        text = json.dumps(request).encode()
        assert len(text) < MAX_REQUEST_BYTES
        with self._starting, self._changed:
            socket.send_fds(self._socket, [text], descriptors)
            assert self._changed.wait_for(lambda: self._started or self._is_gone, _START_S), "no child was forked"
            assert not self._is_gone, "the process that forks is gone"
            self.starts += 1
            return self._started.pop()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                with self._changed:
                    if "started" in message:
                        self._statuses.pop(message["started"], None)  # the number of a process of long ago
                        self._started.append(message["started"])
                    else:
                        self._statuses[message["ended"]] = message["status"]
                    self._changed.notify_all()
        with self._changed:
            self._is_gone = True
            self._changed.notify_all()

    def status(self, pid: int, timeout_s: float | None) -> int | None:
        """A child's exit status, negative for a signal; None where it still runs after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: pid in self._statuses or self._is_gone, timeout_s)
            assert not self._is_gone, "the process that forks is gone"
            return self._statuses.get(pid)

    def close(self) -> None:
        """End it, and with it whatever it forked."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait(_START_S)


class WarmProcess:
    """The part of `subprocess.Popen` that fleets use."""

    def __init__(self, server: WarmServer, pid: int, stdout: IO[bytes]) -> None:
        self._server = server
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.status(self.pid, 0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._server.status(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("swarm", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile, as `Popen` has it
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
