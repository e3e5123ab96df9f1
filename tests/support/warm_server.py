"""A process that has loaded every library and forks whenever the test asks for a `swarm` process.

Loading them takes five seconds of processor time; a test of six processes does nothing else for half a minute. What
is forked goes on as `python -m swarm ARGUMENTS` does once its imports are done: a process, a session and daemons of
its own, and every signal does what it always does.

Run as `python -m tests.support.warm_server SOCKET`, an inherited descriptor. One JSON object a line each way; a request
carries the new process's standard input, output and error as descriptors. Children end with this process, and it ends
with its client.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

import peers.joining  # noqa: F401
import scheduler.opening
import scheduler.verbs  # noqa: F401
import swarm.training.export  # noqa: F401
from swarm.cli import main
from swarm.local.fleet import end_with_parent
from tests.support.warm import MAX_REQUEST_BYTES

_CLONE_NEWNET = 0x40000000


def serve(client: socket.socket) -> list[str] | None:
    """Until the client is gone (None); in a forked child: the arguments that it was made for."""
    selector = selectors.DefaultSelector()
    selector.register(client, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                _tell_end(client, selector, key.fd, key.data)
                continue
            text, descriptors, _, _ = socket.recv_fds(client, MAX_REQUEST_BYTES, 3)
            if not text:
                return None
            request = json.loads(text)
            child = os.fork()
            if child == 0:
                client.close()
                selector.close()
                return _become(request, descriptors)
            for each in descriptors:
                os.close(each)
            selector.register(os.pidfd_open(child), selectors.EVENT_READ, child)
            _send(client, {"started": child})


def _tell_end(client: socket.socket, selector: selectors.BaseSelector, descriptor: int, child: int) -> None:
    selector.unregister(descriptor)
    os.close(descriptor)
    _send(client, {"ended": child, "status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


def _send(client: socket.socket, message: dict[str, Any]) -> None:
    client.sendall(json.dumps(message).encode() + b"\n")


def _become(request: dict[str, Any], descriptors: list[int]) -> list[str]:
    os.setsid()
    end_with_parent()
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    if request["space"]:
        _enter(request["space"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    arguments: list[str] = request["arguments"]
    return arguments


def _enter(space: str) -> None:
    """A network namespace, as `ip netns exec` does."""
    with open(f"/run/netns/{space}", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {space}")


if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        sys.argv = ["swarm", *wanted]
        main()
