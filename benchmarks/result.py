"""The one form of a result: what was measured, how, and on what."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from swarm.durable import replacing

_REPOSITORY = Path(__file__).resolve().parent.parent
_PACKAGES = ("torch", "hivemind", "transformers", "numpy")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMAXPROCS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run of one case. Make it with `measured`."""

    case: str
    """The case's name."""
    metrics: Mapping[str, Any]
    """The figures; the unit is in the name."""
    config: Mapping[str, Any]
    """Every option, seed and warm-up included."""
    environment: Mapping[str, Any]
    """Commit, versions, hardware, threads and date."""
    samples: Mapping[str, Sequence[float]]
    """Every raw sample behind the figures, in the order it was taken."""

    @classmethod
    def measured(
        cls,
        case: str,
        options: Any,
        metrics: Mapping[str, Any],
        samples: Mapping[str, Sequence[float]],
        **config: Any,
    ) -> Result:
        """A result of now, on this machine.

        Args:
            case: the case's name.
            options: the case's options dataclass, recorded whole.
            metrics: see the class.
            samples: see the class.
            config: what else was fixed, such as `warmup_rounds` or the size of a tensor.
        """
        recorded = {**dataclasses.asdict(options), **config}
        return cls(case=case, metrics=metrics, config=recorded, environment=environment(), samples=samples)

    def to_json(self) -> str:
        """Indented JSON; paths become strings."""
        # A path's folders say something about one machine only.
        return json.dumps(dataclasses.asdict(self), indent=2, default=_plain) + "\n"

    @property
    def file_name(self) -> str:
        """`case_hardware_date_sha.json`."""
        cpu = re.sub(r"[^a-z0-9]+", "-", str(self.environment["cpu_model"]).lower()).strip("-")[:40]
        hardware = f"{self.environment['cores']}x{cpu}"
        date = str(self.environment["date"])[:10]
        return f"{self.case}_{hardware}_{date}_{str(self.environment['commit'])[:8]}.json"

    def write(self, target: Path) -> Path:
        """Write whole or not at all.

        Args:
            target: a file, or an existing folder that gets `file_name`.

        Returns:
            The file written.
        """
        path = target / self.file_name if target.is_dir() else target
        with replacing(path) as file:
            file.write(self.to_json().encode())
        return path


def environment() -> dict[str, Any]:
    """What a reader needs to know before comparing: commit, versions, hardware, threads, load, date."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain")),
        "versions": {"python": platform.python_version(), **versions},
        "cpu_model": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "threads": {
            "torch": torch.get_num_threads(),
            "torch_interop": torch.get_num_interop_threads(),
            **{name: os.environ.get(name, "unset") for name in _THREAD_VARIABLES},
        },
        "load_average_1min": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str:
    """What git says of this repository; empty where it is not one, as in an installed wheel."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_REPOSITORY), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def _plain(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)
