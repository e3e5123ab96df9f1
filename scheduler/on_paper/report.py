"""What `swarm plan` says, as data: the plan, where its time goes, who would not help, what one more brings. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scheduler.on_paper.growth import OneMore
from scheduler.on_paper.peers_file import OnPaper
from scheduler.planner.evaluator import owners_reduce_s, step_seconds
from scheduler.planner.explain import BadlyUsed, Explained, Limit, StageTime, Standby
from scheduler.planner.heuristic import Certified

OWNERS = -1
"""The owners' number, where stages have theirs."""
_ALL_THE_TIME = 0.999
"""Of the time in which microbatches stream: whoever works so much of it is waited for."""


@dataclass(frozen=True, slots=True)
class Member:
    """A peer's part in a stage.

    Attributes:
        share: of the stage's microbatches.
    """

    name: str
    kind: str
    region: int
    share: float


@dataclass(frozen=True, slots=True)
class Times:
    """Where a step of one stage goes, in seconds; see `StageTime`."""

    compute_s: float
    line_s: float
    memory_s: float
    fill_s: float
    reduce_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Lane:
    """A stage, or the owners.

    Attributes:
        number: of the stage, or `OWNERS`.
        first_layer, last_layer: of the whole model, both inside; equal to -1 for owners.
        load: share of the time in which microbatches stream that it is at work: 1 at the bottleneck.
        bottleneck: nobody is slower, and everybody else waits for it; several may be alike.
    """

    number: int
    first_layer: int
    last_layer: int
    load: float
    bottleneck: bool
    times: Times
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Idle:
    """Hosts of one kind that the plan leaves out, all for the same reason.

    Attributes:
        names: of the peers.
        reason, stage, longer_reduce_s, gain_tokens_per_s: of each one; see `Standby`.
        words: the same as a sentence.
    """

    kind: str
    names: tuple[str, ...]
    reason: str
    stage: int
    longer_reduce_s: float
    gain_tokens_per_s: float
    words: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Hosts of one kind that compute for less than half of the time, all for the same reason.

    Attributes:
        stages: where they are.
        busy: share of the time in which they do; of the least busy one.
        words: the same as a sentence.
    """

    kind: str
    names: tuple[str, ...]
    stages: tuple[int, ...]
    limit: str
    busy: float
    words: str


@dataclass(frozen=True, slots=True)
class Report:
    """A plan on paper.

    Attributes:
        bound_tokens_per_s: no plan exceeds it.
        gap: share of the bound that this plan may be missing.
        step_s: of which `stream_s` at the bottleneck's rate, `fill_s` to fill and drain the pipeline, `sync_s` in
            all-reduces.
        limit: what the rate is limited by: `stage`, `owners` or `links`.
        regions: names; empty where there is only one without a name.
        one_more: by what it brings.
        notes: sentences on figures that were not believed.
    """

    tokens_per_s: float
    bound_tokens_per_s: float
    gap: float
    step_s: float
    stream_s: float
    fill_s: float
    sync_s: float
    limit: str
    regions: tuple[str, ...]
    owners: Lane
    stages: tuple[Lane, ...]
    standbys: tuple[Idle, ...]
    badly_used: tuple[Waiting, ...]
    one_more: tuple[OneMore, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; keys are the attributes."""
        return dataclasses.asdict(self)


def make_report(
    paper: OnPaper, region_names: tuple[str, ...], plan: Certified, why: Explained, gains: Sequence[OneMore]
) -> Report:
    """Put a plan and its explanation together.

    Args:
        plan: of `paper`'s instance.
        why: explains `plan`.
        gains: what one more peer of each kind would bring.
    """
    found = plan.evaluation
    return Report(
        tokens_per_s=found.tokens_per_s,
        bound_tokens_per_s=plan.bound_tokens_per_s,
        gap=max(plan.gap, 0.0),
        step_s=found.step_s,
        stream_s=found.stream_s,
        fill_s=found.fill_s,
        sync_s=found.sync_s,
        limit=found.limit,
        regions=region_names,
        owners=_owners(paper, plan),
        stages=tuple(_stage(paper, plan, time) for time in why.stages),
        standbys=_standbys(paper, plan, why.standbys),
        badly_used=_badly_used(paper, why.badly_used),
        one_more=tuple(sorted(gains, key=lambda each: -each.tokens_per_s)),
        notes=paper.notes,
    )


def _stage(paper: OnPaper, plan: Certified, time: StageTime) -> Lane:
    hosts, found = paper.instance.hosts, plan.evaluation
    sizes = plan.assignment.sizes
    first = paper.first_layer + int(sizes[: time.stage].sum())
    rows = np.flatnonzero(plan.assignment.stage == time.stage)
    total = float(found.stage_rates[time.stage])
    return Lane(
        number=time.stage,
        first_layer=first,
        last_layer=first + time.layers - 1,
        load=found.rate / total,
        bottleneck=found.rate / total > _ALL_THE_TIME,
        times=Times(time.compute_s, time.line_s, time.memory_s, time.fill_s, time.reduce_s, time.idle_s),
        members=tuple(
            Member(hosts.names[row], paper.kinds[row], int(hosts.region[row]), float(found.host_rates[row]) / total)
            for row in rows.tolist()
        ),
    )


def _owners(paper: OnPaper, plan: Certified) -> Lane:
    """The owners as if they were a stage: they compute, send, and average their ends."""
    instance, found = paper.instance, plan.evaluation
    owners, work = instance.owners, instance.work
    rates = owners.rates(work.boundary_bytes)
    total = float(rates.sum())
    stream_s = work.global_batch / total
    by_line = float(rates[1 / rates > owners.ends_s * (1 + 1e-6)].sum()) / total
    reduce_s = owners_reduce_s(instance)
    idle_s = found.step_s - step_seconds(work.staleness, stream_s + found.fill_s, reduce_s)
    return Lane(
        number=OWNERS,
        first_layer=-1,
        last_layer=-1,
        load=found.rate / total,
        bottleneck=found.rate / total > _ALL_THE_TIME,
        times=Times(stream_s * (1 - by_line), stream_s * by_line, 0.0, found.fill_s, reduce_s, max(idle_s, 0.0)),
        members=tuple(
            Member(name, paper.owner_kinds[row], int(owners.region[row]), float(rates[row]) / total)
            for row, name in enumerate(owners.names)
        ),
    )


def _standbys(paper: OnPaper, plan: Certified, standbys: tuple[Standby, ...]) -> tuple[Idle, ...]:
    kind_of = dict(zip(paper.instance.hosts.names, paper.kinds, strict=True))
    alike: dict[tuple[str, str, int], list[Standby]] = {}
    for each in standbys:
        alike.setdefault((kind_of[each.name], each.reason, each.stage), []).append(each)
    return tuple(
        Idle(
            kind=kind,
            names=tuple(each.name for each in group),
            reason=reason,
            stage=stage,
            longer_reduce_s=group[0].longer_reduce_s,
            gain_tokens_per_s=group[0].gain_tokens_per_s,
            words=_why_idle(paper, plan, group[0]),
        )
        for (kind, reason, stage), group in alike.items()
    )


def _why_idle(paper: OnPaper, plan: Certified, standby: Standby) -> str:
    lost = f"the swarm would lose {-standby.gain_tokens_per_s:,.0f} tokens/s"
    match standby.reason:
        case "memory":
            row = paper.instance.hosts.names.index(standby.name)
            held = int(paper.instance.most_layers()[row])
            least = int(plan.assignment.sizes.min())
            return f"memory for {held} {_layers(held)}, and the smallest stage has {least}"
        case "uplink":
            return f"would lengthen a step's all-reduces by {seconds(standby.longer_reduce_s)}: {lost}"
        case "links":
            return f"too far from the others, or behind too thin links, for stage {standby.stage}: {lost}"
        case "no_stage_gains":
            return f"fits best in stage {standby.stage}, which the swarm does not wait for"
        case "would_gain":
            gain = f"{standby.gain_tokens_per_s:,.3g}"
            return f"would bring {gain} tokens/s in stage {standby.stage}; the planner chose otherwise"


def _badly_used(paper: OnPaper, badly_used: tuple[BadlyUsed, ...]) -> tuple[Waiting, ...]:
    kind_of = dict(zip(paper.instance.hosts.names, paper.kinds, strict=True))
    alike: dict[tuple[str, Limit], list[BadlyUsed]] = {}
    for each in badly_used:
        alike.setdefault((kind_of[each.name], each.limit), []).append(each)
    return tuple(
        Waiting(
            kind=kind,
            names=tuple(each.name for each in group),
            stages=tuple(sorted({each.stage for each in group})),
            limit=limit,
            busy=min(each.busy for each in group),
            words=_why_waiting(limit, [each.busy for each in group]),
        )
        for (kind, limit), group in alike.items()
    )


def _why_waiting(limit: Limit, busy: Sequence[float]) -> str:
    causes: dict[Limit, str] = {
        "line": "the line is slower than the processor",
        "memory": "no memory for more microbatches in flight",
        "others": "other parts of the swarm are slower",
    }
    least, most = f"{min(busy):.0%}", f"{max(busy):.0%}"
    return f"at work for {least if least == most else f'{least} to {most}'} of the time: {causes[limit]}"


def seconds(value_s: float) -> str:
    """A duration with a unit that suits it."""
    return f"{value_s * 1000:.3g} ms" if value_s < 1 else f"{value_s:,.3g} s" if value_s < 1000 else f"{value_s:,.0f} s"


def _layers(count: int) -> str:
    return "layer" if count == 1 else "layers"
