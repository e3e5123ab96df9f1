"""Pictures of results: each takes the metrics of one case, and draws on matplotlib's axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Metrics = Mapping[str, Any]

_SYSTEMS = ("ideal", "one_process", "torch_1f1b", "stateless_relay", "swarm")


def throughput(axes: Any, metrics: Metrics) -> None:
    """Tokens a second of every system, a group of bars a precision."""
    suffixes = [suffix for suffix in ("", "_bf16") if f"swarm_tokens_per_s{suffix}" in metrics]
    places = np.arange(len(_SYSTEMS))
    for number, suffix in enumerate(suffixes):
        found = [metrics[f"{system}_tokens_per_s{suffix}"] for system in _SYSTEMS]
        middles = [each["median"] for each in found]
        spread = [
            [each["median"] - each["min"] for each in found],
            [each["max"] - each["median"] for each in found],
        ]
        width = 0.8 / len(suffixes)
        axes.bar(places + number * width, middles, width, yerr=spread, label=suffix.lstrip("_") or "fp32")
    axes.set_xticks(places + 0.4 - 0.4 / len(suffixes), [system.replace("_", " ") for system in _SYSTEMS])
    axes.set_ylabel("tokens / s")
    axes.legend()


def utilisation(axes: Any, metrics: Metrics) -> None:
    """Utilisation against the ratio of transfer to compute time, and what the line allows."""
    points: Sequence[Mapping[str, Any]] = metrics["points"]
    for delay_ms, codec in sorted({(point["delay_ms"], point["codec"]) for point in points}):
        line = [point for point in points if (point["delay_ms"], point["codec"]) == (delay_ms, codec)]
        ratios = [point["ratio"] for point in line]
        axes.plot(ratios, [point["utilisation"] for point in line], "o-", label=f"{codec}, {delay_ms:g} ms")
        axes.plot(ratios, [point["bound"] for point in line], "k:", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("transfer time / compute time, in bf16 (dotted: what the line allows)")
    axes.set_ylabel("utilisation")
    axes.set_ylim(0, 1.05)
    axes.legend()


def step_time(axes: Any, metrics: Metrics) -> None:
    """Where a step goes, by the leader's phases."""
    left = 0.0
    for phase, took_ms in metrics["phase_ms"].items():
        axes.barh([0], [took_ms], left=left, label=f"{phase}: {took_ms:.0f} ms")
        left += took_ms
    axes.set_yticks([])
    axes.set_xlabel("ms of a step")
    axes.legend()


def recovery(axes: Any, metrics: Metrics) -> None:
    """Stalls after faults, by their kind."""
    kinds = [name.removeprefix("stall_s_median_") for name in metrics if name.startswith("stall_s_median_")]
    places = np.arange(len(kinds))
    axes.bar(places - 0.2, [metrics[f"stall_s_median_{kind}"] for kind in kinds], 0.4, label="median")
    axes.bar(places + 0.2, [metrics[f"stall_s_max_{kind}"] for kind in kinds], 0.4, label="longest")
    axes.set_xticks(places, [kind.replace("_", "\n") for kind in kinds])
    axes.set_ylabel("stall after a fault, s")
    axes.legend()


def gaps(axes: Any, metrics: Metrics) -> None:
    """The certified gap by the number of peers, a line a family."""
    rows: Sequence[Mapping[str, Any]] = metrics["synthetic"]
    for family in sorted({row["family"] for row in rows}):
        line = sorted((row["peers"], row["gap"]) for row in rows if row["family"] == family)
        axes.plot([peers for peers, _ in line], [100 * gap for _, gap in line], "o-", label=family)
    axes.set_xscale("log")
    axes.set_xlabel("peers")
    axes.set_ylabel("certified gap, %")
    axes.legend()


def codec_loss(axes: Any, metrics: Metrics) -> None:
    """Loss against bits a value."""
    names = [name.removesuffix("_loss_gap") for name in metrics if name.endswith("_loss_gap") and name[:4] != "best"]
    bits = [metrics[f"{name}_bits_per_value"] for name in names]
    lost = [100 * metrics[f"{name}_loss_gap"] for name in names]
    axes.plot(bits, lost, "o")
    for name, at, height in zip(names, bits, lost, strict=True):
        axes.annotate(name.replace("_", " "), (at, height), textcoords="offset points", xytext=(6, 4))
    axes.set_xlabel("bits a value")
    axes.set_ylabel("validation loss over fp32's, %")


PLOTS: Mapping[str, tuple[str, Callable[[Any, Metrics], None]]] = {
    "throughput": ("Throughput on one machine", throughput),
    "wan": ("Utilisation on thin and long lines", utilisation),
    "step-overhead": ("Where a step's time goes", step_time),
    "chaos": ("Recovery", recovery),
    "planner": ("How good plans are, proven", gaps),
    "codecs": ("What codecs cost", codec_loss),
}
"""By case: a title, and what draws its metrics."""
