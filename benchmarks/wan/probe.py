"""What a way carries, over plain TCP: the emulator's check of itself. One process an end.

{"do": "serve", "address"}                     -> {"port"}
{"do": "measure", "address", "port", "bytes"}  -> {"round_trip_s", "bytes_per_s"}
"""

from __future__ import annotations

import socket
import statistics
import threading
import time

from benchmarks.workers.lines import Line, serve

_ECHOES = 9
_WARM_UP_SHARE = 0.25
"""Of the bytes: until TCP's window is open."""
_SIZE = 8
"""Bytes of the announcement."""


def _answer(listener: socket.socket) -> None:
    """Echo single bytes; then swallow what is announced, and acknowledge a quarter and the whole of it."""
    connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_ECHOES):
            connection.sendall(connection.recv(1))
        total = int.from_bytes(connection.recv(_SIZE, socket.MSG_WAITALL), "big")
        got, warm = 0, False
        while got < total:
            got += len(connection.recv(1 << 20))
            if not warm and got >= _WARM_UP_SHARE * total:
                warm, first_bytes, first_s = True, got, time.monotonic()
        seconds = time.monotonic() - first_s
        connection.sendall(f"{(total - first_bytes) / seconds:.3f}".encode())


def _serve(line: Line) -> Line:
    listener = socket.create_server((line["address"], 0))
    threading.Thread(target=_answer, args=(listener,), daemon=True).start()
    return {"port": listener.getsockname()[1]}


def _measure(line: Line) -> Line:
    with socket.create_connection((line["address"], line["port"])) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        round_trips = []
        for _ in range(_ECHOES):
            began_s = time.monotonic()
            connection.sendall(b"?")
            connection.recv(1)
            round_trips.append(time.monotonic() - began_s)
        connection.sendall(int(line["bytes"]).to_bytes(_SIZE, "big"))
        connection.sendall(bytes(line["bytes"]))
        bytes_per_s = float(connection.recv(64))
    return {"round_trip_s": statistics.median(round_trips), "bytes_per_s": bytes_per_s}


if __name__ == "__main__":
    serve({"serve": _serve, "measure": _measure})
