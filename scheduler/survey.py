"""What members measured, as the planner's question. Pure.

Not every pair of peers has measured its way. A latency that nobody measured is estimated from ways over third peers: it
is at most their sum, at least their difference, and taken to be in the middle. A rate that nobody measured is not
limited by the pair, only by both peers' own lines.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scheduler.planner.instance import Floats, Instance, Ints, Owners, Regions, Work
from scheduler.planner.intake import Measured, hosts_of
from swarm.config import RunConfig
from swarm.errors import RunError
from swarm.model.layout import Layout
from swarm.wire import compression
from swarm.wire.messages import Capabilities

MAX_PAIRWISE = 64
"""Up to so many members, each pair has its own latency and rate; beyond, those that are equally far from the scheduler
count as one region."""
_REGION_STEP = 1.5
"""Ratio of round trips to the scheduler between one region and the next."""
_LEAST_ROUND_TRIP_S = 0.002

_SHARE, _SHARE_WHILE_LOSING = 0.75, 0.5
"""Of the fastest plan's throughput, that is enough for one with two hosts a stage: the death of one of two costs two to
five seconds, that of an only one twelve and more."""


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """The planner's question and how sure its figures are.

    Attributes:
        notes: a sentence for each figure that was not believed.
        measured_pairs, estimated_pairs: of members, in either direction.
    """

    instance: Instance
    notes: tuple[str, ...]
    measured_pairs: int
    estimated_pairs: int


def survey(
    config: RunConfig,
    layout: Layout,
    hosts: Mapping[str, Capabilities],
    owners: Mapping[str, Capabilities],
    scheduler: str,
    num_stages: int = 0,
    *,
    loses_hosts: bool = False,
) -> Survey:
    """Lay out what members measured.

    Args:
        scheduler: peer id that everybody has measured its way to.
        num_stages: a wish of the admin; 0 leaves it to the planner.
        loses_hosts: a second replica of every stage is worth more in a swarm that does.

    Raises:
        RunError: no hosts, or no owners.
    """
    if not hosts or not owners:
        raise RunError(f"{len(hosts)} hosts and {len(owners)} owners are here", "wait for more to join")
    members = {**hosts, **owners}
    region_of, regions, pairs = _regions(members, scheduler)
    claims = [
        Measured(
            name=peer,
            memory_bytes=facts.memory_bytes,
            layer_s=facts.layer_seconds,
            up_bytes_per_s=facts.up_bytes_per_s,
            down_bytes_per_s=facts.down_bytes_per_s,
            overhead_s=facts.overhead_seconds,
            region=region_of[peer],
        )
        for peer, facts in hosts.items()
    ]
    laid_out, notes = hosts_of(claims, len(regions.latency_s))
    work = work_of(
        config,
        layout,
        layer_state_bytes=statistics.median_high(facts.layer_bytes for facts in hosts.values()),
        graph_bytes=statistics.median_high(facts.graph_bytes for facts in hosts.values()),
        num_stages=num_stages,
    )
    share = _SHARE_WHILE_LOSING if loses_hosts else _SHARE
    instance = Instance(laid_out, _owners(owners, region_of), regions, work, share)
    return Survey(instance, notes, *pairs)


def _owners(owners: Mapping[str, Capabilities], region_of: Mapping[str, int]) -> Owners:
    facts = list(owners.values())
    return Owners(
        names=tuple(owners),
        ends_s=np.array([max(each.ends_seconds, 1e-7) for each in facts]),
        up_bytes_per_s=np.array([max(each.up_bytes_per_s, 1.0) for each in facts]),
        down_bytes_per_s=np.array([max(each.down_bytes_per_s, 1.0) for each in facts]),
        region=np.array([region_of[peer] for peer in owners], dtype=np.int64),
    )


def work_of(config: RunConfig, layout: Layout, *, layer_state_bytes: int, graph_bytes: int, num_stages: int) -> Work:
    """The planner's figures of a run.

    Args:
        layer_state_bytes: weights, gradient sums and the optimizer's state of one trunk layer.
        graph_bytes: what one trunk layer keeps for one microbatch in flight.
        num_stages: a wish of the admin; 0 leaves it to the planner.
    """
    batch = config.batch
    values = batch.microbatch_sequences * config.data.context_tokens * layout.hidden_size
    numerics = config.numerics
    largest = max(layout.layer_parameters[layout.trunk.first : layout.trunk.last])
    return Work(
        num_layers=layout.trunk.num_layers,
        layer_state_bytes=float(layer_state_bytes),
        graph_bytes=float(graph_bytes),
        working_bytes=0.0,
        raw_boundary_bytes=float(compression.encoded_bytes(numerics.boundary_codecs[-1], values)),
        raw_gradient_bytes=float(_gradient_bytes(numerics.gradient_codec, largest)),
        raw_ends_gradient_bytes=float(_gradient_bytes(numerics.gradient_codec, layout.ends_parameters)),
        global_batch=batch.global_batch_microbatches,
        microbatch_tokens=config.microbatch_tokens,
        num_stages=num_stages,
        staleness=config.schedule.staleness,
    )


def _gradient_bytes(codec: str, parameters: int) -> int:
    return parameters * (2 if codec == "fp16" else 4)


def _regions(members: Mapping[str, Capabilities], scheduler: str) -> tuple[dict[str, int], Regions, tuple[int, int]]:
    names = list(members)
    round_trip_s, rate = _measured(members, [*names, scheduler])
    region = np.arange(len(names)) if len(names) <= MAX_PAIRWISE else _rings(round_trip_s[: len(names), -1])
    count = int(region.max()) + 1
    measured = int(np.isfinite(round_trip_s[:-1, :-1]).sum()) // 2
    filled = _triangulated(round_trip_s) if len(names) <= MAX_PAIRWISE else _by_distance(round_trip_s)
    filled = filled[:-1, :-1]
    latency_s, pair = np.zeros((count, count)), np.full((count, count), np.inf)
    for one in range(count):
        for other in range(count):
            block = np.ix_(region == one, region == other)
            latency_s[one, other] = float(np.median(filled[block])) / 2
            known = rate[:-1, :-1][block]
            known = known[np.isfinite(known)]
            pair[one, other] = float(np.median(known)) if len(known) else np.inf
    pairs = len(names) * (len(names) - 1) // 2
    return dict(zip(names, region.tolist(), strict=True)), Regions(latency_s, pair), (measured, pairs - measured)


def _measured(members: Mapping[str, Capabilities], names: list[str]) -> tuple[Floats, Floats]:
    """Round trips and rates of each pair; NaN and infinite where nobody measured them."""
    place = {name: number for number, name in enumerate(names)}
    round_trip_s = np.full((len(names), len(names)), np.nan)
    rate = np.full((len(names), len(names)), np.inf)
    for peer, facts in members.items():
        for link in facts.links:
            if link.peer in place and link.peer != peer and link.bytes_per_s > 0:
                pair = (place[peer], place[link.peer]), (place[link.peer], place[peer])
                for row, column in pair:
                    round_trip_s[row, column] = np.fmin(round_trip_s[row, column], link.round_trip_s)
                    rate[row, column] = np.minimum(rate[row, column], link.bytes_per_s)
    return round_trip_s, rate


def _triangulated(round_trip_s: Floats) -> Floats:
    """Every pair's round trip: measured, or between what ways over third peers allow; 0 to oneself."""
    filled = round_trip_s.copy()
    for row in range(len(filled)):
        over = round_trip_s[row][:, None]
        with np.errstate(invalid="ignore"):
            most = np.fmin.reduce(over + round_trip_s, axis=0)
            least = np.fmax.reduce(np.abs(over - round_trip_s), axis=0)
        estimate = (most + np.fmin(least, most)) / 2
        missing = np.isnan(filled[row])
        filled[row, missing] = estimate[missing]
    filled = np.where(np.isnan(filled), float(np.nanmedian(np.append(filled, 0.0))), filled)
    np.fill_diagonal(filled, 0.0)
    symmetric: Floats = np.fmin(filled, filled.T)
    return symmetric


def _by_distance(round_trip_s: Floats) -> Floats:
    """As `_triangulated`, over the scheduler alone: for many members."""
    distance = np.nan_to_num(round_trip_s[:, -1], nan=_LEAST_ROUND_TRIP_S)
    estimate = np.maximum(distance[:, None], distance[None, :])  # the middle of sum and difference
    filled: Floats = np.where(np.isnan(round_trip_s), estimate, round_trip_s)
    np.fill_diagonal(filled, 0.0)
    return filled


def _rings(to_scheduler_s: Floats) -> Ints:
    distance = np.nan_to_num(to_scheduler_s, nan=_LEAST_ROUND_TRIP_S)
    ring = np.floor(np.log(np.maximum(distance / _LEAST_ROUND_TRIP_S, 1.0)) / np.log(_REGION_STEP)).astype(np.int64)
    numbers: Ints = np.unique(ring, return_inverse=True)[1].astype(np.int64)
    return numbers
