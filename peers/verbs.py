"""`swarm join`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.config import NodeConfig
from swarm.telemetry import Teller

if TYPE_CHECKING:
    from peers.metrics import PeerMetrics
    from swarm.wire.messages import Heartbeat

_MIB = 1 << 20
_LONGEST_PATH = 256
_MBIT = 1e6 / 8


def join(
    invite: Annotated[str, typer.Argument(help="The invite as the admin sent it, or a file that holds it.")],
    data: Annotated[
        Path | None, typer.Option(help="Private text: a file, a folder, .jsonl or .parquet. It never leaves.")
    ] = None,
    state_dir: Annotated[Path, typer.Option(help="Identity, shard, and what a restart goes on from.")] = Path(
        "~/.swarm"
    ),
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port to listen on; 0 lets the system choose.")] = 0,
    memory_mib: Annotated[int, typer.Option(help="Use at most this much memory; 0 for what is free.")] = 0,
    disk_mib: Annotated[int, typer.Option(help="Keep at most this much on the disk; 0: a quarter of the free.")] = 0,
    up_mbit: Annotated[float, typer.Option(help="Send at most so many Mbit/s; 0: no limit.")] = 0.0,
    down_mbit: Annotated[float, typer.Option(help="Receive at most so many Mbit/s; 0: no limit.")] = 0.0,
    threads: Annotated[int, typer.Option(help="Threads of matrix products.")] = 1,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, or emulated:SECONDS a layer, for experiments.")
    ] = "auto",
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Prometheus metrics for this machine; 0: a free port.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Take part in a run: host layers, and with --data train on your own private text."""
    node = NodeConfig(
        state_dir=state_dir.expanduser(),
        listen_host=host,
        listen_port=port,
        memory_bytes=memory_mib * _MIB,
        disk_bytes=disk_mib * _MIB,
        up_bytes_per_s=up_mbit * _MBIT,
        down_bytes_per_s=down_mbit * _MBIT,
        threads=threads,
        device=device,
    )
    text = read_invite_argument(invite)
    teller = Teller(json)
    try:
        _run(text, node, data, metrics_port, teller)
    finally:
        teller.close()


def read_invite_argument(invite: str) -> str:
    """The invite that somebody typed, or that is in the file they named; raises InviteInvalid."""
    from swarm.errors import InviteInvalid

    path = Path(invite)
    if len(invite) >= _LONGEST_PATH or not path.is_file():
        return invite
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InviteInvalid(f"cannot read an invite from {path} ({error})", "paste the invite itself") from None


def _run(invite: str, node: NodeConfig, data: Path | None, metrics_port: int | None, teller: Teller) -> None:
    from swarm.admission import read_invite

    read_invite(invite, _now_s())  # a mistyped invite is told at once, not after seconds of loading libraries

    import uvloop

    from peers.control import answering
    from peers.controlling import Controls
    from peers.joining import opened
    from peers.limiting import Limiting
    from swarm.signals import until_stopped
    from swarm.tasks import beside

    metrics = None
    if metrics_port is not None:
        metrics = _metrics(metrics_port)
        teller.tell({"event": "metrics", "url": metrics.url}, f"metrics at {metrics.url}")
    leaving: list[Callable[[], bool]] = []

    async def main() -> None:
        async with opened(invite, node, data, teller.say) as peer:
            leaving.append(peer.leave)
            limiting = Limiting(peer, node.state_dir)
            controls = Controls(peer, limiting)

            def observe(heartbeat: Heartbeat) -> None:
                controls.look()  # also where nobody asks: it counts how long we wait
                if metrics is not None:
                    metrics.take(heartbeat)

            peer.observe = observe
            async with answering(node.state_dir, controls.carry_out):
                teller.tell({"event": "joined", "peer": peer.endpoint.peer_id})
                await beside(peer.run(), limiting.run())

    uvloop.run(until_stopped(main(), lambda: bool(leaving) and leaving[0]()))


def _metrics(port: int) -> PeerMetrics:
    from swarm.errors import ConfigError

    try:
        from peers.metrics import PeerMetrics
    except ModuleNotFoundError:
        raise ConfigError(
            "--metrics-port needs prometheus_client", "pip install 'swarm-pretraining[dashboard]', or leave it out"
        ) from None
    return PeerMetrics(port)


def _now_s() -> float:
    import time

    return time.time()
