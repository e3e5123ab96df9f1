"""Who may see the dashboard. Without a token: whoever sits at this machine; with one: who shows it.

A page of somebody else's, open in the admin's browser, must not read ours either: a request has to name this server as
its host (a foreign name that resolves to this machine does not help), and must not come from another site's script.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = (
    # The libraries of the pages evaluate templates; that nothing is fetched from or sent to elsewhere is what counts.
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens on an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request shows.

    Attributes:
        host, origin: the headers; empty where they are missing.
        cookie: the value of ours.
        in_address: the token in the address, as people open a link with it.
        bearer: as Prometheus sends it.
    """

    host: str
    origin: str = ""
    cookie: str = ""
    in_address: str = ""
    bearer: str = ""


@dataclass(frozen=True, slots=True)
class Door:
    """The rule.

    Args:
        token: empty where only this machine reaches the server.
    """

    token: str

    def refusal(self, asked: Asked) -> str:
        """Why a request is refused, as a sentence; empty where it is not."""
        if asked.origin and urlsplit(asked.origin).netloc != asked.host:
            return "this request comes from another site"
        if not self.token:
            name = urlsplit(f"//{asked.host}").hostname or ""
            return "" if name in _LOCAL_NAMES else f"{name or 'no name'} is not a name of this machine"
        if any(self._is_right(shown) for shown in (asked.cookie, asked.in_address, asked.bearer)):
            return ""
        return "this dashboard needs its token: open it with ?token=..., from dashboard.token in the run's folder"

    def _is_right(self, shown: str) -> bool:
        return bool(shown) and hmac.compare_digest(shown.encode(), self.token.encode())


class Guarded:
    """An ASGI application behind a door.

    Args:
        app: behind it.
        cookie: the name of the cookie that keeps the token in a browser.
    """

    def __init__(self, app: App, door: Door, cookie: str) -> None:
        self.app = app
        self._door = door
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        asked = self._asked(scope)
        refusal = self._door.refusal(asked)
        if refusal:
            await _refuse(scope, receive, send, refusal)
        elif asked.in_address and self._door.token and scope["type"] == "http":
            await self._keep_token(scope, send)
        else:
            await self.app(scope, receive, _with_headers(send))

    def _asked(self, scope: Scope) -> Asked:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        return Asked(
            host=headers.get("host", ""),
            origin=headers.get("origin", ""),
            cookie=cookies[self._cookie].value if self._cookie in cookies else "",
            in_address=parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0],
            bearer=bearer if scheme.lower() == "bearer" else "",
        )

    async def _keep_token(self, scope: Scope, send: Send) -> None:
        """Into a cookie, and out of the address: that is in histories and on screens."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        del query["token"]
        where = "/" + quote(scope["path"].lstrip("/")) + ("?" + urlencode(query, doseq=True) if query else "")
        cookie = f"{self._cookie}={self._door.token}; Path=/; HttpOnly; SameSite=Lax"
        headers = [(b"location", where.encode()), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": [*headers, *_HEADERS]})
        await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": why.encode() + b"\n"})
