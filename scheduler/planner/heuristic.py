"""The planner for any size: shapes from the bound's relaxation, hosts by its prices, local search; always with a gap.

It can be stopped at any time, is deterministic, and never returns less than the plan it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scheduler.planner.arranging import arrange, in_turns, is_short_of_memory
from scheduler.planner.bound import BoundSearch, Box
from scheduler.planner.evaluator import Evaluation, evaluate, step_seconds
from scheduler.planner.feasible import alone, check_possible, fewest_stages
from scheduler.planner.filling import fill, ordered, settle
from scheduler.planner.instance import Assignment, Instance, Ints
from scheduler.planner.placing import place
from scheduler.planner.polishing import polish
from scheduler.planner.replicated import replicated_plans
from scheduler.planner.shapes import Shape, Shapes, Sizes
from scheduler.planner.sweeping import Found, begun, swept

_NEAR = 0.05
"""From the bound, as a share: where a first plan is this near, proofs come before other plans."""
_PLACINGS = 4
"""Each changes how long stages keep microbatches, from which the next one starts."""
_BALANCES, _WORTH_A_BALANCE = 6, 1e-3
"""Of all-reduces with what they overlap, at most; and what one has to gain for another one, as a share of the step."""
_MANY = 3000
"""Of more hosts, everything takes its time: less is tried."""
_SWEPT = 8
"""Of more hosts, fractions of hosts in a programme lead to whole ones that are of use."""
_OF_THE_WAY = 0.35
"""From the bound's step to a first plan's: where better plans are."""
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
        begins: lengths of all-reduces of which the most promising one is begun with.
        promising: lengths for which whole numbers of stages are asked of the bound.
        arranged: plans: the fastest, and others that the bound thinks possible.
        arrangements: of the stages of each.
        splits: of the bound's intervals: before there is a plan, when a first one is known, and at the end.
        nodes: of integer programmes' searches for whole hosts; of many hosts, fractions hardly matter.
        enough: a gap, as a share of the bound, below which neither a better plan nor a tighter bound is looked for.
    """

    sync_factors: tuple[float, ...]
    shapes: int
    programmes: int
    moves: int
    begins: int
    promising: int
    arranged: int
    arrangements: int
    splits: tuple[int, int, int]
    nodes: int = 0
    enough: float = 0.015

    @classmethod
    def of(cls, num_hosts: int) -> _Effort:
        if num_hosts <= 8:
            return cls((1.0, 1.0, 1.2), 4, 30, 100, 1, 8, 1, 20, (40, 10, 60), 200)
        if num_hosts <= 300:
            nodes = 6000 if num_hosts <= 64 else 0
            return cls((1.0, 1.0, 1.0, 0.9, 1.1, 1.25, 0.8), 8, 60, 300, 4, 8, 5, 120, (40, 15, 60), nodes)
        if num_hosts <= _MANY:
            return cls((1.0, 1.0, 1.1), 3, 60, 100, 4, 8, 6, 80, (40, 15, 60))
        return cls((1.0,), 3, 24, 15, 4, 4, 2, 12, (24, 40, 50), enough=0.0195)


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
        if plan.fewest_replicas > 1 and (
            self._replicated is None or found.tokens_per_s > self._replicated[0].tokens_per_s
        ):
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
            if reached >= max(self._instance.replica_share * self._fastest[0].tokens_per_s, self._floor):
                return self._replicated
        return self._fastest


def certified_plan(
    instance: Instance, start: Assignment | None = None, out_of_time: Callable[[], bool] = lambda: False
) -> Certified:
    """Plan, and bound the plan.

    Args:
        start: a plan to beat; hosts that are new since it was made stand by in it.
        out_of_time: asked between attempts, after the first one; the best plan so far is returned.

    Raises:
        ModelTooLarge: the hosts' memory does not hold the trunk.
        RunError: no owner, or no plan has the number of stages asked for.
    """
    check_possible(instance)
    effort = _Effort.of(instance.num_hosts)
    candidates = _Candidates(instance, start)
    fewest = instance.work.num_stages or fewest_stages(instance)
    slowest = candidates.offer(alone(instance, fewest)).step_s
    if instance.num_hosts <= _SMALL and not instance.work.num_stages:
        able = int((instance.most_layers() > 0).sum())
        for number in range(fewest + 1, min(fewest + _POLISHED, able, instance.work.num_layers) + 1):
            candidates.offer(alone(instance, number))
    if instance.num_hosts <= _SMALL:
        for plan in replicated_plans(instance):
            candidates.offer(plan)
    search = BoundSearch(instance, slowest)
    search.split(effort.splits[0], paths=False)
    ranked = _ranked_shapes(instance, search, effort)
    if instance.num_hosts > _SWEPT:
        _sweep_shapes(instance, ranked[: effort.shapes], candidates)
    if instance.num_hosts <= _MANY:
        _fill_shapes(instance, ranked[0].box if ranked else search.weakest, candidates, out_of_time)
    search.shorten(candidates.chosen[0].step_s * (1 - effort.enough))
    if instance.num_hosts <= _MANY or search.weakest.step_s > candidates.chosen[0].step_s * (1 - _NEAR):
        search.split(effort.splits[1], paths=True)
    _arrange(instance, search, candidates, out_of_time)
    if instance.num_hosts <= _SMALL:
        for plan in candidates.different()[:_POLISHED]:
            if not out_of_time():
                candidates.offer(polish(instance, plan, _EVALUATIONS // _POLISHED))
    search.shorten(candidates.chosen[0].step_s * (1 - effort.enough))
    search.split(effort.splits[2], paths=True)
    if effort.nodes and not search.is_done:
        _place_whole_hosts(instance, search, candidates, effort, out_of_time)
    evaluation, assignment = candidates.chosen
    return Certified(assignment, evaluation, max(search.tokens_per_s, evaluation.tokens_per_s))


def _fill_shapes(instance: Instance, begin: Box, candidates: _Candidates, out_of_time: Callable[[], bool]) -> None:
    """Shapes for the interval's all-reduce and around it; the path's time is that of the plans before."""
    effort = _Effort.of(instance.num_hosts)
    stages, sync_s = begin.stages, begin.sync_s[1]
    residence_s = np.full(len(stages), begin.path_s)
    for number, factor in enumerate(effort.sync_factors):
        # The first round is always made: hosts alone in their stages are no plan for a swarm.
        if number and out_of_time():
            return
        shapes = Shapes(instance, sync_s * factor, residence_s)
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


def _sweep_shapes(instance: Instance, ranked: list[_Ranked], candidates: _Candidates) -> None:
    """These shapes, and the best of them for all-reduces of several lengths."""
    found: list[Found] = []
    for _, shape, box in ranked:
        start = begun(instance, shape.sizes, box.path_s, shape.sync_s)
        if start is not None:
            found.append(start)
    if found:
        best = min(found, key=lambda each: each[0].step_s)
        candidates.offer(swept(instance, best, best[0].sync_s)[1])


def _place_whole_hosts(
    instance: Instance,
    search: BoundSearch,
    candidates: _Candidates,
    effort: _Effort,
    out_of_time: Callable[[], bool],
) -> None:
    """Integer programmes that close the gap from both sides: better plans, and proofs that there are none."""

    def offer(stage: Ints, sizes: Sizes) -> float:
        plan = ordered(instance, Assignment(stage, np.array(sizes)))
        found = candidates.offer(plan)
        if found.step_s < candidates.chosen[0].step_s * (1 + _NEAR):
            candidates.offer(settle(instance, plan, found, found.sync_s, effort.moves))
        return candidates.chosen[0].step_s * (1 - effort.enough)

    search.place(effort.nodes, offer, out_of_time)


class _Ranked(NamedTuple):
    """A shape, its step as its programme has it, and the interval of the bound that it was found for."""

    step_s: float
    shape: Shape
    box: Box


def _ranked_shapes(instance: Instance, search: BoundSearch, effort: _Effort) -> list[_Ranked]:
    """Shapes for the bound's weakest intervals, fastest first."""
    found: list[_Ranked] = []
    for box in search.weak(effort.begins):
        # Stages keep microbatches for half a path, on the average.
        shapes = Shapes(instance, box.sync_s[1], np.full(len(box.stages), box.path_s / 2))
        for shape in shapes.best(box.stages, effort.programmes // 2):
            compute_s = instance.work.global_batch / shape.rate + box.path_s
            found.append(_Ranked(step_seconds(instance.work.staleness, compute_s, box.sync_s[1]), shape, box))
    return sorted(found, key=lambda each: each.step_s)


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
    """The fastest plan's stages, and those that the bound thinks possible, in another order, of other sizes."""
    if search.is_done:
        return
    effort = _Effort.of(instance.num_hosts)
    found, plan = candidates.chosen
    # Where they overlap the rest, all-reduces of a faster plan are between the bound's and this plan's step.
    overlapped_s = search.weakest.step_s + _OF_THE_WAY * (found.step_s - search.weakest.step_s)
    starts = [(found, plan, overlapped_s if instance.work.staleness else found.sync_s)]
    promising: dict[tuple[int, ...], float] = {}
    for box in search.promising(effort.promising):
        promising.setdefault(box.sizes, overlapped_s if instance.work.staleness else box.sync_s[1])
    short = is_short_of_memory(instance, plan, found)
    for sizes, sync_s in list(promising.items())[: effort.promising]:
        for begin in (in_turns,) if short else (in_turns, _filled):
            begun = begin(instance, sizes, found.fill_s, sync_s)
            if begun is not None:
                starts.append((*begun, sync_s))
    starts[1:] = sorted(starts[1:], key=lambda each: each[0].step_s)[: effort.arranged - 1]
    for before, start, sync_s in starts:
        search.shorten(candidates.chosen[0].step_s * (1 - effort.enough))
        if out_of_time() or search.is_done:
            return
        arranged: Assignment | None = start
        if is_short_of_memory(instance, start, before):
            arranged = arrange(instance, start, before, sync_s, effort.arrangements)
        if arranged is None:
            continue
        if instance.num_hosts > _MANY:
            if arranged is not plan:
                candidates.offer(swept(instance, (candidates.offer(arranged), arranged), sync_s)[1])
            continue
        settled = settle(instance, arranged, candidates.offer(arranged), sync_s, effort.moves)
        _placed(instance, candidates, candidates.offer(settled), settled, sync_s, effort.moves)
    if instance.work.staleness and instance.num_hosts <= _MANY:
        _balance(instance, candidates, effort.moves, out_of_time)


def _balance(instance: Instance, candidates: _Candidates, moves: int, out_of_time: Callable[[], bool]) -> None:
    """All-reduces overlap the rest: where one of the two is longer, let both take as long as they do on the average."""
    for _ in range(_BALANCES):
        found, plan = candidates.chosen
        if out_of_time():
            return
        sync_s = (found.stream_s + found.fill_s + found.sync_s) / 2
        settled = settle(instance, plan, found, sync_s, moves)
        again, settled = _placed(instance, candidates, candidates.offer(settled), settled, sync_s, moves)
        if again.step_s >= found.step_s * (1 - _WORTH_A_BALANCE):
            return


def _filled(instance: Instance, sizes: Sizes, path_s: float, sync_s: float) -> tuple[Evaluation, Assignment] | None:
    """A plan of a shape whose hosts have memory enough wherever they are; None where they do not suffice.

    Args:
        path_s: of a plan, about.
        sync_s: hosts that would reduce more slowly are left out.
    """
    shapes = Shapes(instance, sync_s, np.full(instance.work.num_layers + 1, path_s))
    shape = shapes.solve(sizes)
    plan = (
        None
        if shape is None
        else fill(instance, shape, shapes.sizes_of_hosts(shape), _Effort.of(instance.num_hosts).moves)
    )
    return None if plan is None else (evaluate(instance, plan), plan)
