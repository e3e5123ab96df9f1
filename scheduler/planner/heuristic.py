"""The planner for any size: shapes from the bound's relaxation, hosts by its prices, local search; always with a gap.

It can be stopped at any time, is deterministic, and never returns less than the plan it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler.planner.arranging import arrange, is_short_of_memory, mixed
from scheduler.planner.bound import BoundSearch
from scheduler.planner.evaluator import Evaluation, evaluate
from scheduler.planner.filling import fill, settle
from scheduler.planner.instance import Assignment, Instance
from scheduler.planner.placing import place
from scheduler.planner.polishing import polish
from scheduler.planner.replicated import replicated_plans
from scheduler.planner.shapes import Shapes
from swarm.errors import ModelTooLarge, RunError

_RATE_SPLITS, _PATH_SPLITS = 40, 60
_WORTH_A_REPLICA = 0.75
"""A plan in which every stage has a second replica may be slower than the fastest by so much: a death costs more."""
_PLACINGS = 4
"""Each changes how long stages keep microbatches, from which the next one starts."""
_SMALL = 32
"""Up to so many hosts, plans are polished under the evaluator itself."""
_EVALUATIONS = 2000
_POLISHED = 4
"""Plans with different numbers of stages, and evaluations for all of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Certified:
    """A plan, what it gives, and what no plan exceeds."""

    assignment: Assignment
    evaluation: Evaluation
    bound_tokens_per_s: float

    @property
    def gap(self) -> float:
        """Share of the bound that the plan may be missing."""
        return 1 - self.evaluation.tokens_per_s / self.bound_tokens_per_s


@dataclass(frozen=True, slots=True, eq=False)
class _Effort:
    """How much is tried, by the number of hosts.

    Attributes:
        sync_factors: of the relaxation's all-reduce; one round for each.
        shapes: filled in each round.
        programmes: solved in each round to rank shapes.
        moves: of hosts, at each steepness.
        arranged: plans: the fastest, and others near the relaxation.
        arrangements: of the stages of each.
    """

    sync_factors: tuple[float, ...]
    shapes: int
    programmes: int
    moves: int
    arranged: int
    arrangements: int

    @classmethod
    def of(cls, num_hosts: int) -> _Effort:
        if num_hosts <= 8:
            return cls((1.0, 1.0, 1.2), 4, 30, 100, 1, 20)
        if num_hosts <= 300:
            return cls((1.0, 1.0, 1.0, 0.9, 1.1, 1.25, 0.8), 8, 60, 300, 3, 120)
        if num_hosts <= 3000:
            return cls((1.0, 1.0, 1.0, 1.1), 3, 60, 100, 1, 160)
        return cls((1.0, 1.0), 1, 40, 15, 1, 80)


class _Candidates:
    """Plans found so far."""

    def __init__(self, instance: Instance, start: Assignment | None) -> None:
        self._instance = instance
        self._floor = 0.0 if start is None else evaluate(instance, start).tokens_per_s
        self._fastest: tuple[Evaluation, Assignment] | None = None
        self._replicated: tuple[Evaluation, Assignment] | None = None
        self._by_number: dict[int, tuple[Evaluation, Assignment]] = {}
        if start is not None:
            self.offer(start)

    def offer(self, plan: Assignment) -> Evaluation:
        """Evaluate a plan, and keep it if it is the best of its kind."""
        found = evaluate(self._instance, plan)
        if self._fastest is None or found.tokens_per_s > self._fastest[0].tokens_per_s:
            self._fastest = (found, plan)
        number = plan.num_stages
        if number not in self._by_number or found.tokens_per_s > self._by_number[number][0].tokens_per_s:
            self._by_number[number] = (found, plan)
        twice = int(np.bincount(plan.stage[plan.stage >= 0]).min()) > 1
        if twice and (self._replicated is None or found.tokens_per_s > self._replicated[0].tokens_per_s):
            self._replicated = (found, plan)
        return found

    def different(self) -> list[Assignment]:
        """The fastest for each number of stages, fastest first."""
        ranked = sorted(self._by_number.values(), key=lambda each: (each[0].step_s, each[1].num_stages))
        return [plan for _, plan in ranked]

    @property
    def chosen(self) -> tuple[Evaluation, Assignment]:
        """The fastest, or one with a second replica of every stage that is not much slower."""
        assert self._fastest is not None
        if self._replicated is not None:
            reached = self._replicated[0].tokens_per_s
            if reached >= max(_WORTH_A_REPLICA * self._fastest[0].tokens_per_s, self._floor):
                return self._replicated
        return self._fastest


def certified_plan(
    instance: Instance, start: Assignment | None = None, out_of_time: Callable[[], bool] = lambda: False
) -> Certified:
    """Plan, and bound the plan.

    Args:
        start: a plan to beat; hosts that are new since it was made stand by in it.
        out_of_time: asked between attempts; one plan is always made.

    Raises:
        ModelTooLarge: the hosts' memory does not hold the trunk.
        RunError: no owner, or no plan has the number of stages asked for.
    """
    check_possible(instance)
    candidates = _Candidates(instance, start)
    fewest = instance.work.num_stages or _fewest_stages(instance)
    slowest = candidates.offer(_alone(instance, fewest)).step_s
    if instance.num_hosts <= _SMALL and not instance.work.num_stages:
        able = int((instance.most_layers() > 0).sum())
        for number in range(fewest + 1, min(fewest + _POLISHED, able, instance.work.num_layers) + 1):
            candidates.offer(_alone(instance, number))
    if instance.num_hosts <= _SMALL:
        for plan in replicated_plans(instance):
            candidates.offer(plan)
    search = BoundSearch(instance, slowest)
    search.split(_RATE_SPLITS, paths=False)
    _fill_shapes(instance, search, candidates, out_of_time)
    _arrange(instance, search, candidates, out_of_time)
    if instance.num_hosts <= _SMALL:
        for plan in candidates.different()[:_POLISHED]:
            if not out_of_time():
                candidates.offer(polish(instance, plan, _EVALUATIONS // _POLISHED))
    evaluation, assignment = candidates.chosen
    search.shorten(evaluation.step_s)
    search.split(_PATH_SPLITS, paths=True)
    return Certified(assignment, evaluation, max(search.tokens_per_s, evaluation.tokens_per_s))


def _fill_shapes(
    instance: Instance, search: BoundSearch, candidates: _Candidates, out_of_time: Callable[[], bool]
) -> None:
    """Shapes for the relaxation's all-reduce and around it; the path's time is that of the plans before."""
    effort = _Effort.of(instance.num_hosts)
    weakest = search.weakest
    stages = weakest.stages
    residence_s = np.full(len(stages), weakest.path_s)
    for factor in effort.sync_factors:
        if out_of_time():
            return
        shapes = Shapes(instance, weakest.sync_s[1] * factor, residence_s)
        found: list[tuple[Evaluation, Assignment]] = []
        for shape in shapes.best(stages, effort.programmes)[: effort.shapes]:
            plan = fill(instance, shape, shapes.sizes_of_hosts(shape), effort.moves)
            if plan is not None:
                first = candidates.offer(plan)
                plan = settle(instance, plan, first, shape.sync_s, effort.moves)
                found.append((candidates.offer(plan), plan))
        if found:
            evaluation, plan = min(found, key=lambda each: each[0].step_s)
            evaluation, plan = _placed(instance, candidates, evaluation, plan, shapes.sync_s, effort.moves)
            stages = np.bincount(plan.sizes, minlength=len(stages)).astype(np.float64)
            residence_s = np.full(len(stages), evaluation.stage_residence_s.mean())
            for size in np.unique(plan.sizes).tolist():
                residence_s[size] = evaluation.stage_residence_s[plan.sizes == size].mean()


def _placed(
    instance: Instance, candidates: _Candidates, found: Evaluation, plan: Assignment, sync_s: float, moves: int
) -> tuple[Evaluation, Assignment]:
    """The plan, or one with the same stages and each host where its memory is enough, as long as that is faster."""
    best, now = (found, plan), (found, plan)
    for _ in range(_PLACINGS):
        placed = place(instance, now[1].sizes, now[0].stage_residence_s, sync_s)
        if placed is None:
            break
        settled = settle(instance, placed, candidates.offer(placed), sync_s, moves)
        now = (candidates.offer(settled), settled)
        if now[0].step_s >= best[0].step_s:
            break
        best = now
    return best


def _arrange(instance: Instance, search: BoundSearch, candidates: _Candidates, out_of_time: Callable[[], bool]) -> None:
    """The fastest plans' stages in another order, of other sizes."""
    effort, weakest = _Effort.of(instance.num_hosts), search.weakest
    found, plan = candidates.chosen
    # Where they overlap the rest, all-reduces of a faster plan are between the bound's and this plan's step.
    bound_s = weakest.sync_s[1]
    sync_s = (bound_s + found.step_s) / 2 if instance.work.staleness else max(found.sync_s, bound_s)
    starts = [(found, plan)]
    if effort.arranged > 1:
        shapes = Shapes(instance, sync_s, np.full(len(weakest.stages), found.fill_s)).beside(weakest.stages)
        starts += mixed(instance, shapes, found.fill_s, sync_s)[: effort.arranged - 1]
    for before, start in starts:
        if out_of_time() or not is_short_of_memory(instance, start, before):
            continue
        arranged = arrange(instance, start, before, sync_s, effort.arrangements)
        if arranged is not None:
            settled = settle(instance, arranged, candidates.offer(arranged), sync_s, effort.moves)
            _placed(instance, candidates, candidates.offer(settled), settled, sync_s, effort.moves)


def _fewest_stages(instance: Instance) -> int:
    held = np.cumsum(np.sort(instance.most_layers())[::-1])
    return int(np.searchsorted(held, instance.work.num_layers)) + 1


def _alone(instance: Instance, number: int) -> Assignment:
    """The hosts with the most memory, each alone in its stage.

    Raises:
        RunError: so many stages do not hold the trunk.
    """
    layers = instance.work.num_layers
    most = instance.most_layers()
    order = np.argsort(-most, kind="stable")[:number]
    held = int(most[order].sum())
    if held < layers or most[order[-1]] < 1:
        raise RunError(
            f"{number} stages cannot hold the trunk: the {number} largest hosts hold {held} of its {layers} layers",
            "ask for another number of stages, or let hosts with more memory join",
        )
    sizes = np.ones(number, dtype=np.int64)
    for row in range(number):
        sizes[row] += min(int(most[order[row]]) - 1, layers - int(sizes.sum()))
    stage = np.full(instance.num_hosts, -1, dtype=np.int64)
    stage[order] = np.arange(number)
    return Assignment(stage, sizes)


def check_possible(instance: Instance) -> None:
    """Refuse what no plan can do.

    Raises:
        ModelTooLarge: the hosts' memory does not hold the trunk; says how much is missing.
        RunError: no owner, or more stages asked for than hosts or layers.
    """
    work = instance.work
    if not instance.num_hosts or not instance.owners.names:
        raise RunError(
            f"{instance.num_hosts} hosts and {len(instance.owners.names)} owners are here", "wait for more to join"
        )
    limit = min(work.num_layers, instance.num_hosts)
    if work.num_stages > limit:
        raise RunError(
            f"{work.num_stages} stages were asked for, but {instance.num_hosts} hosts and {work.num_layers} trunk "
            f"layers allow {limit}",
            "ask for fewer stages",
        )
    held = int(instance.most_layers().sum())
    if held < work.num_layers:
        missing = (work.num_layers - held) * (work.layer_state_bytes + work.graph_bytes)
        raise ModelTooLarge(
            f"all {instance.num_hosts} hosts together hold {held} of the trunk's {work.num_layers} layers; "
            f"{missing / 2**20:,.0f} MiB are missing",
            "let more hosts join, raise their memory limits, or make the model smaller",
        )
