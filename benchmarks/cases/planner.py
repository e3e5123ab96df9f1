"""The planner: how good is a plan, how is that known, and how long does it take.

`dtfm`: DT-FM's five networks under its own cost function, each solved to a proven optimum, and evaluated again over
64 named nodes. Its genetic search needs minutes for four of them and never finds the second one's.

`synthetic`: swarms of several kinds and sizes under our own model: what the plan may miss of its own upper bound, and
what others' rules reach of it. `adversarial`: small swarms that break rules of thumb.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.planner.baselines import shares
from benchmarks.planner.dtfm import PublishedCase, load, named, named_nodes_cost_s
from benchmarks.planner.dtfm_search import solve
from benchmarks.planner.families import FAMILIES, adversarial, make
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from scheduler.planner.heuristic import Certified, certified_plan
from scheduler.planner.instance import Instance
from swarm.errors import RunError

AGREEMENT = 1e-6
"""The published optima are printed with this relative accuracy or better."""

SIZES = (16, 64, 256, 1000, 10_000)

QUICK = {"most_peers": 64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    data: Path = Path("../shared/data/dtfm_cases.json")
    """DT-FM's networks."""
    most_peers: int = 10_000
    """Larger synthetic swarms are left out."""


def run(options: Options) -> Result:
    """Plan every instance, in this process, on one core.

    Raises:
        ConfigError: the file of DT-FM's networks cannot be read.
        RunError: a search's answer does not survive the second evaluation.
    """
    dtfm = [_dtfm(case) for case in load(options.data)]
    synthetic = list(_synthetic(options))
    hard = [_row(name, instance, options.seed) for name, instance in adversarial().items()]
    metrics = {
        "dtfm": dtfm,
        "dtfm_seconds": sum(row["seconds"] for row in dtfm),
        "synthetic": synthetic,
        "adversarial": hard,
    }
    samples = {
        "dtfm_seconds": [row["seconds"] for row in dtfm],
        "synthetic_seconds": [row["seconds"] for row in synthetic],
        "synthetic_gap": [row["gap"] for row in synthetic],
    }
    return Result.measured("planner", options, metrics, samples)


def _synthetic(options: Options) -> Iterator[dict[str, Any]]:
    for num_hosts in SIZES:
        if num_hosts <= options.most_peers:
            for family in FAMILIES:
                yield _row(family.name, make(family, num_hosts, options.seed), options.seed)


def _row(name: str, instance: Instance, seed: int) -> dict[str, Any]:
    """Plan once; `peak_mib` is the most this whole process, imports included, has held up to then.

    Other work on the machine makes `seconds` longer, but hardly `cpu_seconds`.
    """
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    found = certified_plan(instance)
    seconds, cpu_seconds = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "family": name,
        "peers": instance.num_hosts,
        "gap": found.gap,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": peak_kib / 2**10,
        "tokens_per_s": found.evaluation.tokens_per_s,
        "stages": found.assignment.num_stages,
        "standby": int((found.assignment.stage < 0).sum()),
        "shares_of_bound": {"ours": 1 - found.gap, **_baselines(instance, found, seed)},
    }


def _baselines(instance: Instance, found: Certified, seed: int) -> dict[str, float]:
    sync_s = float(found.evaluation.stage_reduce_s.max())
    return shares(instance, found.assignment.sizes, sync_s, found.bound_tokens_per_s, seed)


def _dtfm(case: PublishedCase) -> dict[str, Any]:
    began_s = time.perf_counter()
    solution = solve(case.network)
    seconds = time.perf_counter() - began_s
    again_s = named_nodes_cost_s(case.network, named(case.network, solution.compositions))
    if abs(again_s - solution.cost_s) > AGREEMENT * again_s:
        raise RunError(f"case {case.number} costs {again_s:.6f} s, not {solution.cost_s:.6f} s", "mend the search")
    return {
        "case": case.number,
        "cost": again_s,
        "optimum": case.optimum_s,
        # The search exhausted its bound; an earlier proof by another method must agree.
        "proven": abs(again_s - case.optimum_s) <= AGREEMENT * case.optimum_s,
        "seconds": seconds,
        "search_nodes": solution.nodes,
    }
