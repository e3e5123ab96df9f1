"""Who may see the dashboard."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scheduler.dashboard.door import Asked, Door, Guarded, is_local
from scheduler.dashboard.server import parse_address
from swarm.errors import ConfigError

TOKEN = "right"  # noqa: S105 - of these tests


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "localhost"])
def test_whoever_sits_at_the_machine_needs_no_token(host: str) -> None:
    assert not Door("").refusal(Asked(host))
    assert not Door("").refusal(Asked(host, origin=f"http://{host}"))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", ""])
def test_a_foreign_name_that_leads_here_does_not_help(host: str) -> None:
    assert Door("").refusal(Asked(host))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_another_sites_script_is_refused(origin: str) -> None:
    assert Door("").refusal(Asked("localhost:8080", origin=origin))
    assert Door(TOKEN).refusal(Asked("localhost:8080", origin=origin, cookie=TOKEN))


def test_one_right_token_is_enough() -> None:
    door = Door(TOKEN)
    for asked in (
        Asked("any.example", cookie=TOKEN),
        Asked("any.example", in_address=TOKEN),
        Asked("any.example", bearer=TOKEN, cookie="old"),
    ):
        assert not door.refusal(asked)


@pytest.mark.parametrize("shown", ["", "wrong", "righ", "right ", "r\u00efght"])
def test_any_other_is_not(shown: str) -> None:
    assert "dashboard.token" in Door(TOKEN).refusal(Asked("localhost", cookie=shown, in_address=shown, bearer=shown))


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False)],  # noqa: S104
)
def test_what_only_this_machine_reaches(host: str, local: bool) -> None:
    assert is_local(host) == local


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":0", ("127.0.0.1", 0)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),  # noqa: S104
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "here", "host:", "host:99999", "host:-1", "host:\u0663"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def answer_to(kind: str, path: str = "/", query: str = "", **headers: str) -> list[dict[str, Any]]:
    """What a guarded application that answers nothing sends."""
    sent: list[dict[str, Any]] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    lines = [(name.encode(), value.encode()) for name, value in {"host": "any", **headers}.items()]
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": lines}
    asyncio.run(Guarded(behind, Door(TOKEN), "run")(scope, receive, send))
    return sent


def test_a_token_in_the_address_becomes_a_cookie_that_is_enough() -> None:
    start, _ = answer_to("http", "/peer/a b", f"token={TOKEN}&page=2")
    headers = dict(start["headers"])
    assert (start["status"], headers[b"location"]) == (303, b"/peer/a%20b?page=2")
    cookie = headers[b"set-cookie"].decode().split(";")[0]
    (start,) = answer_to("http", cookie=cookie)
    assert start["status"] == 200
    assert b"content-security-policy" in dict(start["headers"])


@pytest.mark.parametrize("path", ["//evil.example", "/\r\nset-cookie: a=b"])
def test_the_way_on_stays_here_and_in_its_line(path: str) -> None:
    start, _ = answer_to("http", path, f"token={TOKEN}")
    location = dict(start["headers"])[b"location"]
    assert location.startswith(b"/")
    assert not location.startswith(b"//")
    assert b"\n" not in location


def test_a_socket_is_refused_before_it_opens() -> None:
    (closed,) = answer_to("websocket", cookie="run=wrong")
    assert closed["type"] == "websocket.close"
    assert answer_to("http", cookie="run=wrong")[0]["status"] == 403
