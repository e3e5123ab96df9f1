"""When a packet arrives in an emulated network: rates of lines and pairs, delays, jitter, loss, partitions. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from swarm.config import build

_QUEUE_S = 0.2
"""A line's buffer: what would wait longer is dropped, as a router does."""
STRETCHES = 3
"""A packet's own line, the way, the target's line."""
_SPARSE_BYTES = 128
"""Packets as small as an acknowledgement overtake the queue, as they do with fair queueing, Linux's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerLine:
    """A peer's own line; 0 for no limit."""

    up_mbit: float = 0.0
    down_mbit: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """From one peer to another, and back unless that way is given too."""

    delay_ms: float = 0.0
    """One way."""
    jitter_ms: float = 0.0
    """At most this much is added, drawn evenly; packets keep their order."""
    mbit: float = 0.0
    """0 for no limit beside the two lines'."""
    loss: float = 0.0
    """Share of packets that vanish."""


@dataclass(frozen=True, slots=True)
class Network:
    """A whole network.

    Attributes:
        lines: by peer.
        ways: by source and target; others are `default`.
        islands: of peers; nothing passes between two of them. None for one that reaches all.
    """

    lines: Mapping[str, PeerLine]
    ways: Mapping[tuple[str, str], Way] = field(default_factory=dict)
    default: Way = field(default_factory=Way)
    islands: Sequence[frozenset[str]] = ()

    def way(self, source: str, target: str) -> Way:
        """The one that holds between two peers."""
        return self.ways.get((source, target)) or self.ways.get((target, source)) or self.default

    def is_cut(self, source: str, target: str) -> bool:
        """Whether a partition lies between them."""
        return any((source in island) != (target in island) for island in self.islands)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Network:
        """Read `{"lines": {peer: {...}}, "ways": [{"from", "to", ...}], "default": {...}, "islands": [[peer]]}`.

        Raises:
            ConfigError: an unknown key, or a value of another type.
        """
        file = build(_File, values, "the network")
        ways = {}
        for entry in file.ways:
            rest = {key: value for key, value in entry.items() if key not in ("from", "to")}
            ways[str(entry.get("from")), str(entry.get("to"))] = build(Way, rest, "a way")
        return cls(
            lines={name: build(PeerLine, line, f"the line of {name}") for name, line in file.lines.items()},
            ways=ways,
            default=file.default,
            islands=tuple(frozenset(island) for island in file.islands),
        )

    def to_json(self) -> dict[str, object]:
        """What `from_json` reads."""
        return {
            "lines": {
                name: {"up_mbit": line.up_mbit, "down_mbit": line.down_mbit} for name, line in self.lines.items()
            },
            "ways": [{"from": source, "to": target, **_plain(way)} for (source, target), way in self.ways.items()],
            "default": _plain(self.default),
            "islands": [sorted(island) for island in self.islands],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    lines: dict[str, dict[str, float]]
    ways: list[dict[str, object]] = field(default_factory=list)
    default: Way = field(default_factory=Way)
    islands: list[list[str]] = field(default_factory=list)


def _plain(way: Way) -> dict[str, float]:
    return {"delay_ms": way.delay_ms, "jitter_ms": way.jitter_ms, "mbit": way.mbit, "loss": way.loss}


@dataclass(slots=True)
class Packet:
    """One packet on its way.

    Attributes:
        stretch: the next one; `STRETCHES` when it has arrived.
    """

    source: str
    target: str
    num_bytes: int
    stretch: int = 0


@dataclass(slots=True)
class Wires:
    """What is under way.

    Args:
        network: replaced by `change`.
        seed: of loss and jitter.
    """

    network: Network
    seed: int = 0
    dropped: int = 0
    _free_s: dict[tuple[str, str], float] = field(default_factory=dict)
    _last_s: dict[tuple[str, str], float] = field(default_factory=dict)
    _dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)

    def send(self, packet: Packet, now_s: float) -> float | None:
        """A packet is ready for its next stretch: when it has passed it, or None where it is lost.

        The stretches are the source's line, the way, with its delay, and the target's line; each carries one packet at
        a time, in the order in which they come to it. So a caller has to send all packets in the order of time.
        """
        network, source, target = self.network, packet.source, packet.target
        way = network.way(source, target)
        stretch, packet.stretch = packet.stretch, packet.stretch + 1
        if stretch == 0:
            if target not in network.lines or network.is_cut(source, target) or self._dice.random() < way.loss:
                self.dropped += 1
                return None
            return self._pass(("up", source), network.lines[source].up_mbit, packet.num_bytes, now_s)
        if stretch == 1:
            passed_s = self._pass((source, target), way.mbit, packet.num_bytes, now_s)
            if passed_s is None:
                return None
            passed_s += (way.delay_ms + way.jitter_ms * self._dice.random()) / 1000
            passed_s = self._last_s[source, target] = max(passed_s, self._last_s.get((source, target), 0.0))
            return passed_s
        return self._pass(("down", target), network.lines[target].down_mbit, packet.num_bytes, now_s)

    def _pass(self, stretch: tuple[str, str], mbit: float, num_bytes: int, now_s: float) -> float | None:
        if not mbit:
            return now_s
        takes_s = num_bytes * 8 / (mbit * 1e6)
        free_s = max(now_s, self._free_s.get(stretch, 0.0))
        is_sparse = num_bytes <= _SPARSE_BYTES
        if not is_sparse and free_s - now_s > _QUEUE_S:
            self.dropped += 1
            return None
        self._free_s[stretch] = free_s + takes_s
        return (now_s if is_sparse else free_s) + takes_s
