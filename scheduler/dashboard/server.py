"""The dashboard's process: a web server that reads a run's folder. It shares nothing with the scheduler but files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.dashboard.door import Door, Guarded, is_local
from scheduler.dashboard.folder import RunFolder
from scheduler.dashboard.view import View
from scheduler.run_dir import RunDir
from swarm.durable import keeping
from swarm.errors import ConfigError, PortTaken

_FRESH_S = 0.8
"""A view is shown to everybody who asks within so long."""
_LOOKS_APART = 4.0
"""Times as long as a look took: those at thousands of peers come less often."""
_AWAY_S = 15.0
"""A browser that is back within so long goes on; a busy machine may take a while to answer."""
_POLITE = 5
"""Training goes first where processors are scarce."""

Tell = Callable[[dict[str, Any]], None]


def parse_address(address: str) -> tuple[str, int]:
    """`[HOST:]PORT`; loopback without a host, any free port for 0.

    Raises:
        ConfigError: it is not that.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(
            f"the dashboard's address is {address!r}", "give a port, or a host and a port, such as 127.0.0.1:8080"
        )
    return host, int(port)


def serve(run_dir: RunDir, host: str, port: int, tell: Tell) -> None:
    """Show a run until somebody stops it.

    Args:
        tell: hears of the address, once people can look.

    Raises:
        ConfigError: no run there, or the libraries are not installed.
        PortTaken: cannot listen there.
    """
    check_installed()
    folder = RunFolder(run_dir)
    with contextlib.suppress(OSError):
        os.nice(_POLITE)
    with _listening(host, port) as listener:
        token = "" if is_local(host) else _token(run_dir.dashboard_token)
        with contextlib.suppress(KeyboardInterrupt):  # both signals come as this, after the server closed
            asyncio.run(_serve(folder, listener, host, token, tell))


def check_installed() -> None:
    """Raises ConfigError where the dashboard's libraries are missing."""
    from importlib.util import find_spec

    missing = [name for name in ("nicegui", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the dashboard needs {' and '.join(missing)}",
            "pip install 'swarm-pretraining[dashboard]', or leave it out",
        )


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        is_name = isinstance(error, socket.gaierror)
        reason = error.strerror if is_name else os.strerror(error.errno or 0)  # without Python's own words
        raise PortTaken(
            f"cannot show the dashboard on {host}:{port} ({reason})", "choose another port, or 0 for a free one"
        ) from None


def _token(path: Path) -> str:
    """The run's, made once."""
    if not path.exists():
        with keeping(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(secrets.token_urlsafe(24).encode())
    return path.read_text(encoding="ascii").strip()


@dataclass(slots=True)
class _Feed:
    """One look at the folder for all who watch, off the loop."""

    folder: RunFolder
    _view: View | None = None
    _again_at_s: float = 0.0
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def look(self) -> View:
        async with self._looking:
            began_s = time.monotonic()
            if self._view is None or began_s > self._again_at_s:
                self._view = await asyncio.to_thread(self.folder.look)
                now_s = time.monotonic()
                self._again_at_s = now_s + max(_FRESH_S, _LOOKS_APART * (now_s - began_s))
            return self._view


async def _serve(folder: RunFolder, listener: socket.socket, host: str, token: str, tell: Tell) -> None:
    with tempfile.TemporaryDirectory(prefix="swarm-dashboard-") as scratch:
        os.environ["NICEGUI_STORAGE_PATH"] = scratch  # it is read at import; we store nothing there
        import uvicorn

        app = _application(_Feed(folder), token, folder.config.fingerprint)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            ws="websockets-sansio",
        )
        tell(_address(listener, host, token, folder.run_dir))  # whoever comes before the first answer waits in line
        await uvicorn.Server(config).serve([listener])


def _address(listener: socket.socket, host: str, token: str, run_dir: RunDir) -> dict[str, Any]:
    port = listener.getsockname()[1]
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    name = f"[{name}]" if ":" in name else name
    return {
        "event": "dashboard",
        "url": f"http://{name}:{port}/",
        "token_file": str(run_dir.dashboard_token) if token else "",
    }


def _application(feed: _Feed, token: str, fingerprint: str) -> Guarded:
    from fastapi import FastAPI, Response
    from nicegui import ui

    from scheduler.dashboard.metrics import CONTENT_TYPE, exposition
    from scheduler.dashboard.pages import install

    app = FastAPI(openapi_url=None)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(await feed.look()), media_type=CONTENT_TYPE)

    install(feed.look)
    ui.run_with(
        app,
        title="swarm",
        dark=None,
        language="en-US",
        tailwind=False,
        reconnect_timeout=_AWAY_S,
        show_welcome_message=False,
    )
    return Guarded(app, Door(token), f"swarm_{fingerprint[:12]}")
