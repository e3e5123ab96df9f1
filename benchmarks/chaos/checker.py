"""Did the ledgers keep what is promised: microbatches once, no step lost, nothing goes back, replicas equal. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.history import Counted, Digest, History, Log, PlanShape, Step

MOST_EXAMPLES = 20


@dataclass(slots=True)
class Findings:
    """What is wrong with a history; all zero if nothing is.

    Attributes:
        microbatches_lost: numbers that a committed step does not count.
        microbatches_double: numbers that a committed step counts more than once, or differently in two logs.
        routes_wrong: microbatches that a stage did not count, or that somebody counted whom the plan has elsewhere.
        steps_lost: numbers below the newest that no log has, or that were told and are in none.
        steps_that_differ: in two logs, and not the same.
        sums_wrong: steps whose tokens are not those of their microbatches.
        terms_back, plans_back: steps that follow one of a higher term or plan.
        cursors_reused: an owner's microbatches that two committed ones hold.
        digests_differ: (steps, stage) whose members or logs do not agree on weights or gradients.
        digests_compared: (steps, stage) with two words to compare.
        examples: the first of what was found, for people.
    """

    microbatches_lost: int = 0
    microbatches_double: int = 0
    routes_wrong: int = 0
    steps_lost: int = 0
    steps_that_differ: int = 0
    sums_wrong: int = 0
    terms_back: int = 0
    plans_back: int = 0
    cursors_reused: int = 0
    digests_differ: int = 0
    digests_compared: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, example: str) -> None:
        """Keep an example, unless there are enough."""
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(example)

    @property
    def broken(self) -> list[str]:
        """Names of the promises that were not kept."""
        names = [name for name in self.__slots__ if name not in ("examples", "digests_compared")]
        return [name for name in names if getattr(self, name)]


def check(
    history: History, batch: int, plans: Mapping[int, Sequence[PlanShape]] | None = None, told: Iterable[int] = ()
) -> Findings:
    """Look at everything.

    Args:
        history: of all logs.
        batch: microbatches of every step.
        plans: by number, all versions that schedulers told; routes through others are only compared with one another.
        told: numbers of steps that people were told are committed.
    """
    found = Findings()
    _check_order(found, history, set(told))
    for step in history.steps:
        _check_batch(found, step, batch)
    for number, versions in sorted(history.versions.items()):
        found.steps_that_differ += 1
        found.note(f"step {number} is not the same in all logs: {_difference(versions)}")
        found.microbatches_double += _counted_differently(versions)
    _check_cursors(found, history.steps)
    _check_routes(found, history.steps, plans or {})
    _check_digests(found, "weights", history.digests)
    _check_digests(found, "gradients", history.gradients)
    return found


def _check_order(found: Findings, history: History, told: set[int]) -> None:
    steps = history.steps
    numbers = {step.step for step in steps}
    missing = sorted((set(range(max(numbers, default=-1) + 1)) | told) - numbers)
    found.steps_lost = len(missing)
    for number in missing:
        found.note(f"step {number} is in no log")
    for before, after in itertools.pairwise(steps):
        if after.term < before.term:
            found.terms_back += 1
            found.note(f"step {after.step} is of term {after.term}, step {before.step} of {before.term}")
        if after.plan < before.plan:
            found.plans_back += 1
            found.note(f"step {after.step} is of plan {after.plan}, step {before.step} of {before.plan}")


def _check_batch(found: Findings, step: Step, batch: int) -> None:
    counts = Counter(work.number for work in step.work)
    lost = sorted(set(range(batch)) - counts.keys())
    double = sum(count - 1 for count in counts.values()) + len(counts.keys() - set(range(batch)))
    found.microbatches_lost += len(lost)
    found.microbatches_double += double
    if lost:
        found.note(f"step {step.step} lacks microbatches {lost}")
    if double:
        found.note(f"step {step.step} counts {double} microbatches too many")
    if step.tokens != sum(work.tokens for work in step.work):
        found.sums_wrong += 1
        found.note(f"step {step.step} says {step.tokens} tokens, its microbatches have another sum")


def _difference(versions: Sequence[Step]) -> str:
    names = [name for name in Step.__slots__ if name not in ("committed_at_s", "work")]
    different = [name for name in names if len({getattr(step, name) for step in versions}) > 1]
    if _counted_differently(versions):
        different.append("work")
    described = ", ".join(
        f"{name} {[getattr(step, name) for step in versions]}" for name in different if name != "work"
    )
    return described + (" and its microbatches" if "work" in different else "")


def _counted_differently(versions: Sequence[Step]) -> int:
    """Numbers that these versions of a step took from different text or hosts."""
    by_number: dict[int, set[Counted]] = {}
    for step in versions:
        for work in step.work:
            by_number.setdefault(work.number, set()).add(work)
    return sum(len(different) > 1 for different in by_number.values())


def _check_cursors(found: Findings, steps: Sequence[Step]) -> None:
    used: dict[tuple[str, int], int] = {}
    for step in steps:
        for work in step.work:
            at = used.setdefault((work.owner, work.cursor), step.step)
            if at != step.step or _twice(step, work):
                found.cursors_reused += 1
                found.note(f"cursor {work.cursor} of {work.owner[-6:]} is in step {at} and in step {step.step}")


def _twice(step: Step, work: Counted) -> bool:
    """Whether an earlier microbatch of the step holds the same text."""
    same = [other for other in step.work if (other.owner, other.cursor) == (work.owner, work.cursor)]
    return same[0] is not work


def _check_routes(found: Findings, steps: Sequence[Step], plans: Mapping[int, Sequence[PlanShape]]) -> None:
    stage_of: dict[tuple[int, str], int] = {}
    for step in steps:
        most = max((len(work.route) for work in step.work), default=0)
        for work in step.work:
            problems = [_misfit(work, shape) for shape in plans.get(step.plan, ())]
            problem = "" if "" in problems or not problems else problems[-1]
            problem = problem or _two_stages(work, step.plan, most, stage_of)
            if problem:
                found.routes_wrong += 1
                found.note(f"microbatch {work.number} of step {step.step}, plan {step.plan}: {problem}")


def _misfit(work: Counted, shape: PlanShape) -> str:
    if len(work.route) != len(shape.stages):
        return f"{len(work.route)} hops in a trunk of {len(shape.stages)} stages"
    if work.owner not in shape.owners:
        return f"{work.owner[-6:]} is no owner"
    strangers = [peer for peer, hosts in zip(work.route, shape.stages, strict=True) if peer not in hosts]
    return f"{', '.join(peer[-6:] for peer in strangers)} has not that stage" if strangers else ""


def _two_stages(work: Counted, plan: int, num_stages: int, stage_of: dict[tuple[int, str], int]) -> str:
    """What can be wrong with a route whatever the plan was."""
    if len(work.route) != num_stages:
        return f"{len(work.route)} hops, others of the step have {num_stages}"
    for stage, peer in enumerate(work.route):
        if stage_of.setdefault((plan, peer), stage) != stage:
            return f"{peer[-6:]} served two stages"
    return ""


def _check_digests(found: Findings, what: str, digests: Iterable[Digest]) -> None:
    words: dict[tuple[int, int], dict[str, set[str]]] = {}
    for entry in digests:
        words.setdefault((entry.num_steps, entry.stage), {}).setdefault(entry.digest, set()).add(entry.peer)
    for (num_steps, stage), by_digest in sorted(words.items()):
        found.digests_compared += len(set().union(*by_digest.values())) > 1
        if len(by_digest) > 1:
            found.digests_differ += 1
            who = " | ".join(f"{digest[:8]}: {sorted(peer[-6:] for peer in by_digest[digest])}" for digest in by_digest)
            found.note(f"{what} of stage {stage} after {num_steps} steps differ: {who}")


@dataclass(frozen=True, slots=True)
class Waste:
    """What was computed more than once, as far as the logs tell.

    Attributes:
        microbatches: counted in the history.
        repeated_attempts: of these, beyond the first.
        repeated_steps: steps that a rewind had put aside and that were computed again.
        repeated_rounds: all-reduces beyond a step's first.
        fraction: of all microbatches computed that went into no step.
    """

    microbatches: int
    repeated_attempts: int
    repeated_steps: int
    repeated_rounds: int
    fraction: float


def waste(steps: Sequence[Step], aside: Sequence[Log]) -> Waste:
    """How much was in vain, at most: of a repeated attempt only the stage that was lost is computed again.

    Args:
        steps: the history's.
        aside: logs that a rewind put aside.
    """
    counted = {(step.step, work) for step in steps for work in step.work}
    dropped = {(step.step, work) for log in aside for step in log.steps for work in step.work} - counted
    attempts = sum(work.attempt for step in steps for work in step.work)
    in_vain = attempts + len(dropped)
    return Waste(
        microbatches=len(counted),
        repeated_attempts=attempts,
        repeated_steps=len({number for number, _ in dropped}),
        repeated_rounds=sum(max(step.round - 1, 0) for step in steps),
        fraction=in_vain / max(1, len(counted) + in_vain),
    )
