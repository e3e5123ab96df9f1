"""PEERS.json: a swarm that may not exist, in the units that people think in; and the planner's question of it.

    {"hosts": [{"name": "lab", "count": 4, "memory_gib": 23, "layer_ms": 12.5, "up_mbit": 600, "down_mbit": 600,
                "region": "eu"}],
     "owners": [{"name": "uni", "tflops": 40, "up_mbit": 600, "down_mbit": 600, "region": "eu"}],
     "regions": {"names": ["eu", "us"], "latency_ms": [[1, 45], [45, 1]], "pair_mbit": [[null, 100], [100, null]]}}

Who knows the seconds of a layer gives `layer_ms` (an owner: `ends_ms`); who does not gives `tflops`, as reached in
training. Latencies are one way: half of a ping. Without `regions` there is one, without latency or limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.planner.instance import Hosts, Instance, Owners, Regions
from scheduler.planner.intake import Measured, hosts_of
from scheduler.survey import work_of
from swarm.config import RunConfig, build, read_toml
from swarm.errors import ConfigError
from swarm.model.blueprint import layout
from swarm.model.layout import Layout
from swarm.training.costs import Costs, costs

_MBIT_BYTES = 1e6 / 8
_GIB_BYTES = 2.0**30
_MAX_PEERS = 100_000
_RANGES = {
    "memory_gib": (0.0, 16_384.0, "GiB"),
    "layer_ms": (1e-4, 1e9, "ms"),
    "ends_ms": (1e-4, 1e9, "ms"),
    "overhead_ms": (0.0, 1e8, "ms"),
    "tflops": (1e-6, 1e6, "Tflop/s"),
    "up_mbit": (1e-3, 8e5, "Mbit/s"),
    "down_mbit": (1e-3, 8e5, "Mbit/s"),
    "count": (1, _MAX_PEERS, "peers"),
}
_LATENCY_MS = (0.0, 1e7, "ms")
_PAIR_MBIT = (1e-3, 8e5, "Mbit/s")


@dataclass(frozen=True, kw_only=True, slots=True)
class HostKind:
    """Hosts alike; `layer_ms` or `tflops` is given."""

    name: str
    memory_gib: float
    up_mbit: float
    down_mbit: float
    layer_ms: float = 0.0
    """Forward and backward of one trunk layer, for one microbatch."""
    tflops: float = 0.0
    overhead_ms: float = 0.0
    """Of one microbatch, whatever the number of layers."""
    region: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_ranges(self, ("memory_gib", "up_mbit", "down_mbit", "overhead_ms", "count"))
        _check_speed(self, "layer_ms")


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnerKind:
    """Owners alike; `ends_ms` or `tflops` is given."""

    name: str
    up_mbit: float
    down_mbit: float
    ends_ms: float = 0.0
    """Forward and backward of both ends, for one microbatch."""
    tflops: float = 0.0
    region: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_ranges(self, ("up_mbit", "down_mbit", "count"))
        _check_speed(self, "ends_ms")


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionTable:
    """What lies between regions; rows and columns in the order of `names`."""

    names: list[str]
    latency_ms: list[Any]
    pair_mbit: list[Any] = field(default_factory=list)
    """Of one connection between two peers; null where nothing limits it, left out where nothing does anywhere."""

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("regions.names is empty", "name each region, or leave regions out")
        for name in self.names:
            _check_name(name)
        _check_once(self.names)


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """Its top level."""

    hosts: list[Any]
    owners: list[Any]
    regions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Peers:
    """A file that was read and checked.

    Attributes:
        regions: as the planner takes them; one without limits where the file has none.
        region_names: in their order; empty where the file has none.
    """

    hosts: tuple[HostKind, ...]
    owners: tuple[OwnerKind, ...]
    regions: Regions
    region_names: tuple[str, ...]

    @property
    def kinds(self) -> list[HostKind | OwnerKind]:
        """Hosts first."""
        return [*self.hosts, *self.owners]


@dataclass(frozen=True, slots=True)
class Model:
    """A run's configuration, and what its model costs."""

    config: RunConfig
    layout: Layout
    costs: Costs


@dataclass(frozen=True, slots=True, eq=False)
class OnPaper:
    """The planner's question, and what it was made of.

    Attributes:
        kinds, owner_kinds: of each host and of each owner, by its row.
        first_layer: of the trunk.
        notes: a sentence for each figure that was not believed.
    """

    instance: Instance
    kinds: tuple[str, ...]
    owner_kinds: tuple[str, ...]
    first_layer: int
    notes: tuple[str, ...]


def read_peers(path: Path) -> Peers:
    """Read a PEERS.json.

    Raises:
        ConfigError: no file, not JSON, a field that is missing or of another type, a value that no machine has, an
            unknown region, a name given twice.
        UnknownKey: with the nearest known key as remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error})", "check the path") from None
    return parse(_json(text, path.name), path.name)


def parse(values: object, where: str) -> Peers:
    """Check what a PEERS.json holds; errors as `read_peers`, which name `where`."""
    file = build(_File, values, where)
    hosts = tuple(build(HostKind, each, f"{where} hosts[{row}]") for row, each in enumerate(file.hosts))
    owners = tuple(build(OwnerKind, each, f"{where} owners[{row}]") for row, each in enumerate(file.owners))
    for role, kinds in (("hosts", hosts), ("owners", owners)):
        if not kinds:
            raise ConfigError(f"{where} has no {role}", "list at least one")
    regions, region_names = Regions.unlimited(), tuple[str, ...]()
    if file.regions:
        table = build(RegionTable, file.regions, f"{where} regions")
        regions, region_names = _regions(table), tuple(table.names)
    peers = Peers(hosts, owners, regions, region_names)
    if sum(kind.count for kind in peers.kinds) > _MAX_PEERS:
        raise ConfigError(f"{where} has more than {_MAX_PEERS:,} peers", "lower the counts")
    _check_once([kind.name for kind in peers.kinds])
    _check_once([name for kind in peers.kinds for name in _names(kind)])
    for kind in peers.kinds:
        _region(peers, kind)
    return peers


def kind_of(text: str, peers: Peers) -> HostKind | OwnerKind:
    """A kind of peer, as it is named on the command line.

    Args:
        text: the name of a kind in `peers`, or a JSON object with the fields of one; one with `ends_ms` is an owner.

    Raises:
        ConfigError, UnknownKey: neither, or as `read_peers`.
    """
    if text.lstrip().startswith("{"):
        values = _json(text, "--add")
        assert isinstance(values, dict)  # JSON that starts with a brace
        described: type[HostKind | OwnerKind] = OwnerKind if "ends_ms" in values else HostKind
        kind = build(described, {"name": "a new kind"} | values, "--add")
        _region(peers, kind)
        return kind
    for kind in peers.kinds:
        if kind.name == text:
            return kind
    known = ", ".join(kind.name for kind in peers.kinds)
    raise ConfigError(f"there is no kind of peer {text!r}", f"use {known}, or a JSON object with a peer's fields")


def read_model(path: Path) -> Model:
    """Read a run.toml, and work out what its model costs. It needs neither a name nor an admin yet.

    Raises:
        ConfigError, UnknownKey, ModelUnsupported: the file is missing or wrong, or describes no model to cut.
    """
    config = build(RunConfig, {"name": "plan", "admin_public_key": ""} | read_toml(path), path.name)
    laid_out = layout(config)
    return Model(config, laid_out, costs(config, laid_out))


def on_paper(peers: Peers, model: Model, num_stages: int = 0) -> OnPaper:
    """The question of how peers had better train a model.

    Args:
        num_stages: a wish of the admin; 0 leaves it to the planner.
    """
    claims = [_measured(peers, kind, name, model.costs.layer_flops) for kind in peers.hosts for name in _names(kind)]
    hosts, notes = hosts_of(claims, len(peers.regions.latency_s))
    work = work_of(
        model.config,
        model.layout,
        layer_state_bytes=model.costs.layer_state_bytes,
        graph_bytes=model.costs.graph_bytes,
        num_stages=num_stages,
    )
    instance = Instance(hosts, _owners(peers, model.costs.ends_flops), peers.regions, work)
    kinds, owner_kinds = (
        tuple(kind.name for kind in role for _ in range(kind.count)) for role in (peers.hosts, peers.owners)
    )
    return OnPaper(instance, kinds, owner_kinds, model.layout.trunk.first, notes)


def one_of(kind: HostKind, peers: Peers, model: Model) -> Hosts:
    """A single host of a kind, as the planner takes it."""
    return hosts_of([_measured(peers, kind, kind.name, model.costs.layer_flops)], len(peers.regions.latency_s))[0]


def _measured(peers: Peers, kind: HostKind, name: str, layer_flops: float) -> Measured:
    return Measured(
        name=name,
        memory_bytes=kind.memory_gib * _GIB_BYTES,
        layer_s=kind.layer_ms / 1e3 or layer_flops / (kind.tflops * 1e12),
        up_bytes_per_s=kind.up_mbit * _MBIT_BYTES,
        down_bytes_per_s=kind.down_mbit * _MBIT_BYTES,
        overhead_s=kind.overhead_ms / 1e3,
        region=_region(peers, kind),
    )


def _owners(peers: Peers, ends_flops: float) -> Owners:
    each = [kind for kind in peers.owners for _ in range(kind.count)]
    return Owners(
        names=tuple(name for kind in peers.owners for name in _names(kind)),
        ends_s=np.array([kind.ends_ms / 1e3 or ends_flops / (kind.tflops * 1e12) for kind in each]),
        up_bytes_per_s=np.array([kind.up_mbit * _MBIT_BYTES for kind in each]),
        down_bytes_per_s=np.array([kind.down_mbit * _MBIT_BYTES for kind in each]),
        region=np.array([_region(peers, kind) for kind in each], dtype=np.int64),
    )


def _names(kind: HostKind | OwnerKind) -> Iterable[str]:
    return (kind.name,) if kind.count == 1 else (f"{kind.name}-{number}" for number in range(1, kind.count + 1))


def _region(peers: Peers, kind: HostKind | OwnerKind) -> int:
    known = peers.region_names
    if not kind.region and len(known) < 2:
        return 0
    if kind.region not in known:
        problem = f"{kind.name} is in region {kind.region!r}" if kind.region else f"{kind.name} has no region"
        raise ConfigError(problem, f"use {', '.join(known)}" if known else "list it in regions.names")
    return known.index(kind.region)


def _regions(table: RegionTable) -> Regions:
    count = len(table.names)
    unlimited = [[None] * count] * count
    latency_ms = _matrix("latency_ms", table.latency_ms, count, _LATENCY_MS)
    pair_mbit = _matrix("pair_mbit", table.pair_mbit or unlimited, count, _PAIR_MBIT, nothing=np.inf)
    return Regions(np.array(latency_ms) / 1e3, np.array(pair_mbit) * _MBIT_BYTES)


def _matrix(
    name: str, rows: Sequence[Any], count: int, limits: tuple[float, float, str], nothing: float | None = None
) -> list[list[float]]:
    """Check a matrix over regions; null stands for `nothing`, where that is given."""
    if len(rows) != count or any(not isinstance(row, list) or len(row) != count for row in rows):
        raise ConfigError(f"regions.{name} is not {count} rows of {count}", "give a row and a column for each region")

    def number(value: object) -> float:
        if value is None and nothing is not None:
            return nothing
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"regions.{name} holds {value!r}", "give numbers")
        _check_range(f"regions.{name} holds", value, limits)
        return float(value)

    return [[number(value) for value in row] for row in rows]


def _json(text: str, where: str) -> object:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({error})", "correct it") from None
    return found


def _check_name(name: object) -> None:
    # Names end up in terminals and in pictures.
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ConfigError(f"a name is {name!r}", "use printable text")


def _check_once(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{name} is there twice", "give each peer and region a name of its own, and use count")
        seen.add(name)


def _check_ranges(kind: HostKind | OwnerKind, names: Iterable[str]) -> None:
    for name in names:
        _check_range(f"{kind.name} has {name}", getattr(kind, name), _RANGES[name])


def _check_speed(kind: HostKind | OwnerKind, measured: str) -> None:
    given = [name for name in (measured, "tflops") if getattr(kind, name) != 0]
    if len(given) != 1:
        many = "both" if given else "neither"
        raise ConfigError(f"{kind.name} has {many} of {measured} and tflops", "give one of them, above zero")
    _check_ranges(kind, given)


def _check_range(what: str, value: float, limits: tuple[float, float, str]) -> None:
    low, high, unit = limits
    if not low <= value <= high:  # true of NaN as well
        raise ConfigError(f"{what} {value}", f"give a number from {low:g} to {high:,.0f} {unit}")
