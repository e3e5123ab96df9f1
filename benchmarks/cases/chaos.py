"""Does a swarm keep its promises while a fault strikes at least every 20 s: kills, freezes, cut lines, also of leaders.

Real processes on this machine: hosts, a spare, data owners, a scheduler and standbys; as root each in a network
namespace of its own. A stretch without faults comes first and gives the usual step and throughput. Then a seeded
schedule of faults, each proven to have fired; a killed process is started again with its state folder after seconds, as
a service manager does. Then quiet again, until everybody is back and a checkpoint was written. The audit logs of all
schedulers together are one history, which is checked (`benchmarks/chaos/checker.py`), and which one process replays up
to the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.campaign import Campaign, Struck
from benchmarks.chaos.checker import Findings, check, waste
from benchmarks.chaos.faults import Lines
from benchmarks.chaos.history import History, read_folders, union
from benchmarks.chaos.replaying import compare, newest_of
from benchmarks.chaos.rig import LEADER, Rig, Role
from benchmarks.chaos.schedule import CUTS, Kind, draw
from benchmarks.chaos.stalls import Strike, bereft_spans, gaps, stall_figures, step_seconds, tokens_per_s
from benchmarks.corpora import write_random_shards
from benchmarks.registry import CaseOptions
from benchmarks.result import Result
from benchmarks.wan.namespaces import Line, shaped
from scheduler.run_dir import RunDir
from swarm.errors import ConfigError, RunError, SwarmError
from swarm.local.fleet import Fleet
from swarm.model.presets import byte_llama

TRUNK_LAYERS = 6
CONTEXT_TOKENS = 32
GLOBAL_BATCH = 8
SHARD_CHARACTERS = 200_000
CHECKPOINT_EVERY_STEPS = 10
WARMUP_STEPS = 5
QUIET_STEPS = 10
START_S = 300.0
QUIET_S = 240.0
MOST_WEIGHT_REL_DIFF = 1e-5

QUICK = {"minutes": 1.0, "fault_free_s": 15.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(CaseOptions):
    """Options of this case."""

    minutes: float = 10.0
    """Of faults."""
    hosts: int = 6
    """That the run begins with."""
    spares: int = 1
    """Hosts beside them."""
    stages: int = 3
    """Of the trunk."""
    owners: int = 2
    """Each with a shard."""
    standbys: int = 2
    """Schedulers beside the first; without one the leader is not killed. Of two in all, both may be away at once."""
    fault_free_s: float = 45.0
    """Measured before the first fault."""
    most_gap_s: float = 20.0
    """Between two faults."""
    most_away: int = 3
    """No fault strikes while so many processes are away or not yet back."""
    most_faults: int = 0
    """No more after so many; 0 for as many as the time allows."""
    kinds: str = ""
    """Only these kinds of faults, with commas; all that are possible here without it."""
    staleness: int = 0
    """Of the run: 1 lets the next step's microbatches run while a step is averaged."""
    shadow_copies: float = 1.0
    """Of the run: how much of each stage hosts of other stages could take over."""
    cut_off: bool = True
    """Namespaces, so that peers can be cut off; only as root."""
    folder: str = ""
    """Keeps run, state and logs; without it they are kept only if a promise was broken."""


@dataclass(frozen=True, slots=True)
class Times:
    """By the wall clock: the stretch without faults, and the one with them."""

    fault_free_from_s: float
    chaos_from_s: float
    chaos_until_s: float


def run(options: Options) -> Result:
    """Run the swarm, harm it, check it.

    Raises:
        ConfigError: a kind of fault that is unknown or impossible here.
        RunError: the swarm did not even start, or a fault did not fire.
    """
    kinds, left_out = possible_kinds(options)
    if not kinds:
        raise ConfigError("no kind of fault is possible here", f"choose others than {', '.join(left_out)}")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="swarm-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    shards = write_random_shards(folder / "text", options.seed, options.owners, SHARD_CHARACTERS)
    with _placed(options) as (arguments, wrappers, lines):
        num_hosts = options.hosts + options.spares
        values = run_values(options)
        fleet = Fleet(folder / "fleet", values, shards, num_hosts, options.stages, options=arguments, wrappers=wrappers)
        campaign, times, afterwards = _run_fleet(fleet, options, kinds, lines)
    metrics, samples = figures(campaign, times, folder)
    metrics["went_on"], metrics["everybody_back_s"] = afterwards
    metrics["promises_broken"] = _broken(metrics, campaign)
    if not options.folder and not metrics["promises_broken"]:
        shutil.rmtree(folder)
    elif metrics["promises_broken"]:
        metrics["evidence"] = str(folder)
    conditions = {"run": values, "kinds": [*kinds], "kinds_left_out": left_out, "warmup_steps_left_out": WARMUP_STEPS}
    struck = [asdict(each) for each in campaign.struck]
    exits = [asdict(each) for each in campaign.exits]
    return Result.measured("chaos", options, metrics, samples, **conditions, struck=struck, exits=exits)


def possible_kinds(options: Options) -> tuple[list[Kind], dict[str, str]]:
    """The kinds of faults of a run, and why others are left out.

    Raises:
        ConfigError: an unknown kind is asked for.
    """
    unknown = {name for name in options.kinds.split(",") if name} - {*Kind}
    if unknown:
        raise ConfigError(f"there is no fault {', '.join(sorted(unknown))}", f"choose from {', '.join(Kind)}")
    left_out: dict[str, str] = {}
    for kind in Kind:
        if options.kinds and kind not in options.kinds.split(","):
            left_out[kind] = "not asked for"
        elif kind is Kind.KILL_LEADER and not options.standbys:
            left_out[kind] = "no standby scheduler"
        elif kind in CUTS and not _has_namespaces(options):
            left_out[kind] = "network namespaces need root" if options.cut_off else "not asked for"
        elif kind in (Kind.KILL_OWNER, Kind.FREEZE_OWNER, Kind.CUT_OWNER) and options.owners < 2:
            left_out[kind] = "only one owner"
    return [kind for kind in Kind if kind not in left_out], left_out


def _has_namespaces(options: Options) -> bool:
    return options.cut_off and os.geteuid() == 0 and shutil.which("ip") is not None


@contextlib.contextmanager
def _placed(options: Options) -> Iterator[tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]], Lines]]:
    """Arguments and wrappers by program name, and the lines that can be cut."""
    if not _has_namespaces(options):
        yield {}, {}, Lines()
        return
    names = [LEADER, *(f"standby-{number}" for number in range(options.standbys))]
    names += [f"owner-{number}" for number in range(options.owners)]
    names += [f"host-{number}" for number in range(options.hosts + options.spares)]
    with shaped({name: Line() for name in names}) as places:
        arguments: dict[str, tuple[str, ...]] = {name: ("--host", place.address) for name, place in places.items()}
        wrappers = {name: place.wrapper for name, place in places.items()}
        yield arguments, wrappers, Lines(places)


def run_values(options: Options) -> dict[str, Any]:
    """The run.toml: SGD at a small rate, or over a thousand steps rounding would grow until it looks like an error."""
    model = byte_llama(num_layers=TRUNK_LAYERS + 2, width=96, context_tokens=CONTEXT_TOKENS, num_heads=4, mlp_width=256)
    return {
        "name": "chaos",
        "seed": options.seed,
        "model": model,
        "data": {"context_tokens": CONTEXT_TOKENS, "held_out_fraction": 0.0},
        "batch": {"microbatch_sequences": 2, "global_batch_microbatches": GLOBAL_BATCH},
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.5, "warmup_steps": 3},
        "schedule": {
            "steps": 1_000_000,
            "checkpoint_every_steps": CHECKPOINT_EVERY_STEPS,
            "staleness": options.staleness,
            "shadow_copies": options.shadow_copies,
        },
    }


def _run_fleet(
    fleet: Fleet, options: Options, kinds: list[Kind], lines: Lines
) -> tuple[Campaign, Times, tuple[bool, float]]:
    """Through all phases; the last value is that of `_quiet`."""
    duration_s = options.minutes * 60
    schedule = draw(options.seed, duration_s, kinds, options.most_gap_s)
    with fleet:
        rig = Rig(fleet, options.standbys)
        rig.open()
        campaign = Campaign(rig, lines, options.most_away, replaces=not options.kinds)
        try:
            _expect(rig, "the first steps", lambda: rig.newest_step >= WARMUP_STEPS, START_S)
            _expect(rig, "everybody", lambda: not campaign.absent, START_S)
            fault_free_from_s = time.time()
            campaign.strike([], options.fault_free_s)
            chaos_from_s = time.time()
            rig.note({"event": "chaos begins", "step": rig.newest_step})
            is_counted = options.most_faults > 0
            campaign.strike(schedule[: options.most_faults or None], duration_s, stops_when_done=is_counted)
            times = Times(fault_free_from_s, chaos_from_s, time.time())
            afterwards = _quiet(rig, campaign)
        finally:
            campaign.release()
    return campaign, times, afterwards


def _expect(rig: Rig, what: str, is_done: Any, timeout_s: float) -> None:
    if not rig.wait(what, is_done, timeout_s):
        raise RunError(f"the swarm did not get to {what} within {timeout_s:.0f} s", f"see {rig.fleet.folder / 'logs'}")


def _quiet(rig: Rig, campaign: Campaign) -> tuple[bool, float]:
    """No more faults: until everybody is back, all owners take part, and some steps and a checkpoint came after that.

    Returns:
        Whether all of that came in time, and the seconds until all owners took part again.
    """
    began_s = time.monotonic()
    rig.note({"event": "chaos ends", "step": rig.newest_step})

    def takes_part() -> bool:
        campaign.tend()
        return not campaign.absent and rig.last_members[1] == len(rig.names(Role.OWNER))

    back = rig.wait("everybody takes part", takes_part, QUIET_S)
    back_s = time.monotonic() - began_s
    last = rig.newest_step

    def went_on() -> bool:
        campaign.tend()
        return rig.newest_step >= last + QUIET_STEPS and rig.newest_checkpoint > last

    return rig.wait("steps and a checkpoint after the faults", went_on, QUIET_S) and back, back_s


def figures(campaign: Campaign, times: Times, folder: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Everything that the logs say: metrics and samples."""
    rig = campaign.rig
    folders = [rig.folder_of(name) for name in rig.names(Role.SCHEDULER)]
    kept, aside = read_folders(folders)
    history = union(kept)
    findings = check(history, GLOBAL_BATCH, rig.plans, rig.steps_told)
    metrics: dict[str, Any] = {
        "minutes": (times.chaos_until_s - times.chaos_from_s) / 60,
        "steps": len(history.steps),
        "faults": len(campaign.struck),
        "faults_fired": dict(Counter(str(each.kind) for each in campaign.struck)),
        "faults_replaced": sum(each.kind is not each.planned for each in campaign.struck),
        "longest_wait_between_faults_s": campaign.longest_wait_s,
        "honest_exits": len(campaign.exits),
        "orphan_daemons": len(campaign.daemons.orphans),
        "hosts_in_last_plan": rig.last_members[0],
        "owners_in_last_plan": rig.last_members[1],
        "terms": len({step.term for step in history.steps}),
        "plans": len({step.plan for step in history.steps}),
    }
    metrics |= {name: value for name, value in asdict(findings).items() if name != "examples"}
    metrics["examples"] = findings.examples
    metrics |= _weights(campaign, folders, history, folder)
    metrics |= {f"wasted_{name}": value for name, value in asdict(waste(history.steps, aside)).items()}
    metrics["wasted_compute_fraction"] = metrics.pop("wasted_fraction")
    bereft = bereft_spans(rig.plans_by_time, campaign.absences)
    speed, samples = _speed(history, campaign.struck, times, bereft)
    return metrics | speed, samples


def _weights(campaign: Campaign, folders: list[Path], history: History, folder: Path) -> dict[str, Any]:
    rig = campaign.rig
    corpora = rig.fleet.corpora
    shards = {rig.peer_id(f"owner-{number}"): path for number, path in enumerate(corpora)}
    config = RunDir(rig.fleet.run_dir).load_config()
    try:
        reader = newest_of([RunDir(each).checkpoints for each in folders])
        compared = compare(reader, history.steps, config, shards, folder / "reference")
    except SwarmError as error:
        return {"checkpoint_step": -1, "max_weight_rel_diff": float("inf"), "comparing_failed": str(error)}
    return {
        "checkpoint_step": compared.step,
        "max_weight_rel_diff": compared.max_weight_rel_diff,
        "max_loss_rel_diff": compared.max_loss_rel_diff,
    }


def _speed(
    history: History, struck: list[Struck], times: Times, bereft: list[tuple[float, float]]
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    steps = history.steps
    calm_s = step_seconds(steps, times.fault_free_from_s, times.chaos_from_s)
    usual_s = statistics.median(calm_s) if calm_s else 0.0
    strikes = [Strike(each.at_s, each.kind) for each in struck]
    found = gaps(steps, strikes, usual_s, times.chaos_from_s, times.chaos_until_s, bereft)
    calm = tokens_per_s(steps, times.fault_free_from_s, times.chaos_from_s)
    harmed = tokens_per_s(steps, times.chaos_from_s, times.chaos_until_s)
    metrics = {
        "step_s_fault_free": usual_s,
        "step_s_median": statistics.median([gap.lasted_s for gap in found]) if found else 0.0,
        "tokens_per_s_fault_free": calm,
        "tokens_per_s": harmed,
        "throughput_vs_fault_free": harmed / calm if calm else 0.0,
    }
    samples = {
        "step_s_fault_free": calm_s,
        "step_s": [gap.lasted_s for gap in found],
        "stall_s": [gap.stall_s for gap in found if gap.kinds],
    }
    return metrics | stall_figures(found), samples


def _broken(metrics: dict[str, Any], campaign: Campaign) -> list[str]:
    """Names of promises that were not kept."""
    findings = Findings(**{name: metrics[name] for name in Findings.__slots__})
    broken = list(findings.broken)
    if not metrics["max_weight_rel_diff"] <= MOST_WEIGHT_REL_DIFF:
        broken.append("max_weight_rel_diff")
    if campaign.exits:
        broken.append("honest_exits")
    if campaign.daemons.orphans:
        broken.append("orphan_daemons")
    if not metrics["went_on"]:
        broken.append("went_on")
    return broken
