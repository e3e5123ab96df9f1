"""The planner's whole question, as arrays: hosts, owners, regions, and the work. Immutable.

Trunk layers count as alike (the largest one's figures); a host that holds k of them needs k times as much of
everything but links. Each array has one entry a host, an owner or a region, and is not to be written to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Hosts:
    """Peers that may host trunk layers, as they measured themselves.

    Attributes:
        names: peer ids.
        memory_bytes: free, of the device.
        layer_s: forward and backward of one trunk layer for one microbatch.
        overhead_s: of one microbatch, whatever the number of layers.
        up_bytes_per_s, down_bytes_per_s: of the peer's own line.
        region: row in `Regions`.
    """

    names: tuple[str, ...]
    memory_bytes: Floats
    layer_s: Floats
    overhead_s: Floats
    up_bytes_per_s: Floats
    down_bytes_per_s: Floats
    region: Ints

    @property
    def reduce_bytes_per_s(self) -> Floats:
        """What a member of an all-reduce can exchange: the slower direction."""
        return np.minimum(self.up_bytes_per_s, self.down_bytes_per_s)

    def take(self, rows: Ints) -> Hosts:
        """Some of the hosts, by row."""
        return Hosts(
            tuple(self.names[row] for row in rows.tolist()),
            self.memory_bytes[rows],
            self.layer_s[rows],
            self.overhead_s[rows],
            self.up_bytes_per_s[rows],
            self.down_bytes_per_s[rows],
            self.region[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """Peers with data; they compute the ends.

    Attributes:
        ends_s: forward and backward of both ends, for one microbatch.
    """

    names: tuple[str, ...]
    ends_s: Floats
    up_bytes_per_s: Floats
    down_bytes_per_s: Floats
    region: Ints

    def rates(self, boundary_bytes: float) -> Floats:
        """Microbatches a second of each: an activation and a gradient go out, and as much comes in."""
        slowest_s = np.maximum(2 * boundary_bytes / np.minimum(self.up_bytes_per_s, self.down_bytes_per_s), self.ends_s)
        return 1 / slowest_s

    def take(self, rows: Ints) -> Owners:
        """Some of the owners, by row."""
        return Owners(
            tuple(self.names[row] for row in rows.tolist()),
            self.ends_s[rows],
            self.up_bytes_per_s[rows],
            self.down_bytes_per_s[rows],
            self.region[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """What lies between two peers, by their regions.

    Attributes:
        latency_s: one way.
        pair_bytes_per_s: of one connection between two peers; infinite where nothing is known to limit it.
    """

    latency_s: Floats
    pair_bytes_per_s: Floats

    @classmethod
    def unlimited(cls) -> Regions:
        """One region without latency or limit."""
        return cls(np.zeros((1, 1)), np.full((1, 1), np.inf))


@dataclass(frozen=True, slots=True)
class Work:
    """The model and the step.

    Attributes:
        num_layers: of the trunk.
        layer_state_bytes: weights, gradient sum and moments of one layer.
        graph_bytes: what one layer keeps for one microbatch in flight.
        working_bytes: per host, whatever it holds.
        raw_boundary_bytes: one boundary activation before the codec.
        boundary_ratio: of the codec: raw size over sent size.
        raw_gradient_bytes: of one layer, in an all-reduce, before the codec.
        gradient_ratio: as `boundary_ratio`.
        raw_ends_gradient_bytes: of both ends, in the owners' all-reduce, before the codec.
        global_batch: microbatches a step.
        microbatch_tokens: of one microbatch.
        staleness: 0, or 1 where the all-reduce overlaps the next step's microbatches.
        num_stages: a wish of the admin; 0 leaves it to the planner.
    """

    num_layers: int
    layer_state_bytes: float
    graph_bytes: float
    working_bytes: float
    raw_boundary_bytes: float
    raw_gradient_bytes: float
    global_batch: int
    microbatch_tokens: int
    raw_ends_gradient_bytes: float = 0.0
    boundary_ratio: float = 1.0
    gradient_ratio: float = 1.0
    staleness: int = 0
    num_stages: int = 0

    @property
    def boundary_bytes(self) -> float:
        """One boundary activation as it is sent."""
        return self.raw_boundary_bytes / self.boundary_ratio

    @property
    def gradient_bytes(self) -> float:
        """One layer's gradient as it is sent."""
        return self.raw_gradient_bytes / self.gradient_ratio

    @property
    def ends_gradient_bytes(self) -> float:
        """The ends' gradient as it is sent."""
        return self.raw_ends_gradient_bytes / self.gradient_ratio


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One planning problem.

    Attributes:
        replica_share: of the fastest plan's throughput; one with two hosts a stage that reaches it is preferred.
    """

    hosts: Hosts
    owners: Owners
    regions: Regions
    work: Work
    replica_share: float = 0.75

    @property
    def num_hosts(self) -> int:
        """All that could host, standbys included."""
        return len(self.hosts.names)

    def slots(self, host: Ints, layers: Ints) -> Ints:
        """Microbatches in flight for which hosts have memory.

        Args:
            host: rows.
            layers: held by each.

        Returns:
            Counts; negative where not even the layers fit.
        """
        work = self.work
        free = self.hosts.memory_bytes[host] - work.working_bytes - layers * work.layer_state_bytes
        counts: Ints = np.floor(np.minimum(free / (layers * work.graph_bytes), 1e9)).astype(np.int64)
        return counts

    def most_layers(self) -> Ints:
        """Of each host: layers it can hold with one microbatch in flight."""
        work = self.work
        each = work.layer_state_bytes + work.graph_bytes
        most = np.floor((self.hosts.memory_bytes - work.working_bytes) / each)
        return np.clip(most, 0, work.num_layers).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """Who hosts what.

    Attributes:
        stage: of each host; -1 stands by.
        sizes: layers of each stage; they sum up to the trunk's.
    """

    stage: Ints
    sizes: Ints

    @property
    def num_stages(self) -> int:
        """How many stages."""
        return len(self.sizes)

    @property
    def fewest_replicas(self) -> int:
        """Of any stage."""
        return int(np.bincount(self.stage[self.stage >= 0], minlength=len(self.sizes)).min())
