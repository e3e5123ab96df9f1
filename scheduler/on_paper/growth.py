"""What one more peer would bring: to the plan as it is, and to the plan that would be made with it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from scheduler.on_paper.peers_file import HostKind, Model, OnPaper, OwnerKind, Peers, on_paper, one_of
from scheduler.planner.evaluator import evaluate
from scheduler.planner.explain import what_if
from scheduler.planner.heuristic import Certified, certified_plan
from scheduler.planner.instance import Assignment

MAX_PLANNED_ANEW = 300
"""Hosts; a plan of more takes too long to make one for every kind."""


@dataclass(frozen=True, slots=True)
class OneMore:
    """What one more peer of a kind would bring.

    Attributes:
        staying_tokens_per_s: where the others stay with their stages.
        anew_tokens_per_s: where all are planned anew; None where that was not tried.
    """

    kind: str
    staying_tokens_per_s: float
    anew_tokens_per_s: float | None

    @property
    def tokens_per_s(self) -> float:
        """The better of the two."""
        return max(self.staying_tokens_per_s, self.anew_tokens_per_s or 0.0)


def one_more(peers: Peers, model: Model, paper: OnPaper, plan: Certified, kind: HostKind | OwnerKind) -> OneMore:
    """Try one more peer.

    Args:
        peers: without it.
        paper: of `peers` and `model`.
        plan: of `paper`'s instance.
        kind: what the peer would be.
    """
    newcomer = replace(kind, name=f"one more {kind.name}", count=1)
    if isinstance(newcomer, HostKind):
        return _one_more_host(peers, model, paper, plan, kind.name, newcomer)
    grown = replace(peers, owners=(*peers.owners, newcomer))
    instance = on_paper(grown, model, paper.instance.work.num_stages).instance
    now = plan.evaluation.tokens_per_s
    staying = max(0.0, evaluate(instance, plan.assignment).tokens_per_s - now)
    if instance.num_hosts > MAX_PLANNED_ANEW:
        return OneMore(kind.name, staying, None)
    again = certified_plan(instance, plan.assignment)
    return OneMore(kind.name, staying, max(staying, again.evaluation.tokens_per_s - now))


def _one_more_host(
    peers: Peers, model: Model, paper: OnPaper, plan: Certified, kind: str, newcomer: HostKind
) -> OneMore:
    staying = what_if(paper.instance, plan, one_of(newcomer, peers, model))
    if paper.instance.num_hosts >= MAX_PLANNED_ANEW:
        return OneMore(kind, staying, None)
    grown = replace(peers, hosts=(*peers.hosts, newcomer))
    instance = on_paper(grown, model, paper.instance.work.num_stages).instance
    start = Assignment(np.append(plan.assignment.stage, -1), plan.assignment.sizes)
    again = certified_plan(instance, start)
    if again.assignment.stage[-1] < 0:
        return OneMore(kind, staying, staying)  # a better plan of the same hosts is not what the newcomer brings
    return OneMore(kind, staying, max(staying, again.evaluation.tokens_per_s - plan.evaluation.tokens_per_s))
