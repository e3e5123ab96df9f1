"""Swarms on paper: small files of peers, and what comes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scheduler.on_paper.growth import OneMore
from scheduler.on_paper.peers_file import Model, OnPaper, Peers, on_paper, one_of, parse
from scheduler.on_paper.report import Report, make_report
from scheduler.planner.explain import explain, what_if
from scheduler.planner.heuristic import Certified, certified_plan
from swarm.config import RunConfig, build
from swarm.model.blueprint import layout
from swarm.training.costs import costs
from tests.support.runs import TINY_MODEL

LINES = {"up_mbit": 80, "down_mbit": 80}
SECTIONS = {
    "model": TINY_MODEL | {"num_hidden_layers": 8},
    "data": {"context_tokens": 8},
    "batch": {"microbatch_sequences": 1, "global_batch_microbatches": 16},
}


def host(name: str, **other: Any) -> dict[str, Any]:
    """A host entry of a PEERS.json."""
    return {"name": name, "memory_gib": 1, "layer_ms": 100, **LINES, **other}


def owner(name: str, **other: Any) -> dict[str, Any]:
    """An owner entry of a PEERS.json."""
    return {"name": name, "ends_ms": 10, **LINES, **other}


def swarm(*hosts: dict[str, Any], **other: Any) -> dict[str, Any]:
    """A PEERS.json with one owner, unless others are given."""
    return {"hosts": list(hosts), "owners": [owner("uni")], **other}


def tiny_model() -> Model:
    """Six trunk layers between an owner's two."""
    config = build(RunConfig, {"name": "test", "admin_public_key": "", **SECTIONS}, "test")
    laid_out = layout(config)
    return Model(config, laid_out, costs(config, laid_out))


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A file's best plan."""

    model: Model
    peers: Peers
    paper: OnPaper
    plan: Certified

    def report(self) -> Report:
        """What `swarm plan` would say of it."""
        gains = [
            OneMore(kind.name, what_if(self.paper.instance, self.plan, one_of(kind, self.peers, self.model)), None)
            for kind in self.peers.hosts
        ]
        why = explain(self.paper.instance, self.plan)
        return make_report(self.paper, self.peers.region_names, self.plan, why, gains)


def planned(values: dict[str, Any], model: Model) -> Planned:
    """Plan what a PEERS.json holds."""
    peers = parse(values, "peers.json")
    paper = on_paper(peers, model)
    return Planned(model, peers, paper, certified_plan(paper.instance))
