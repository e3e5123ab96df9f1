"""A network for each contract test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from tests.support.net import Net


@pytest.fixture(params=["memory", "libp2p"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Runs an async test body with a `Net` of this kind, on uvloop, and cleans up."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Net]:
        net = Net(request.param, tmp_path)
        try:
            yield net
        finally:
            for endpoint in net.endpoints:
                await endpoint.close()

    def run_body(body: Callable[[Net], object]) -> None:
        async def main() -> None:
            async with opened() as net, asyncio.timeout(60):
                await body(net)  # type: ignore[misc]

        uvloop.run(main())

    return run_body
