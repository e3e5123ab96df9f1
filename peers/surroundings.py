"""What a machine says of its use: battery, terminals, other programs."""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_BUSY_SHARE = 0.25
"""Other programs that take more than this of all processors mean that somebody uses the machine."""


def on_battery() -> bool:
    """Whether the machine runs on its battery now; False where it has none, or does not say."""
    battery = psutil.sensors_battery()
    return battery is not None and battery.power_plugged is False


@dataclass(slots=True)
class Use:
    """When the machine was used last, apart from this process and its children.

    Only terminals tell when somebody typed; of a desktop, its programs' processor time does.
    """

    _used_s: float = -math.inf
    _busy_s: float = field(default_factory=lambda: _busy_s())
    _own_s: float = field(default_factory=lambda: _own_s())
    _looked_s: float = field(default_factory=time.monotonic)

    def unused_s(self) -> float:
        """Seconds since it was; looked at every few seconds."""
        now_s, busy_s, own_s = time.monotonic(), _busy_s(), _own_s()
        span_s = (now_s - self._looked_s) * (psutil.cpu_count() or 1)
        others_s = (busy_s - self._busy_s) - (own_s - self._own_s)
        if span_s > 0 and others_s > _BUSY_SHARE * span_s:
            self._used_s = now_s
        self._looked_s, self._busy_s, self._own_s = now_s, busy_s, own_s
        return min(now_s - self._used_s, _untyped_s())


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system)  # not what runs only where nobody else wants the processor


def _own_s() -> float:
    process = psutil.Process()
    total_s = 0.0
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            total_s += times.user + times.system
    return total_s


def _untyped_s() -> float:
    """A terminal's device is read when somebody types."""
    ages = [math.inf]
    for user in psutil.users():
        with contextlib.suppress(OSError):
            ages.append(time.time() - os.stat(Path("/dev") / (user.terminal or "none")).st_atime)
    return max(0.0, min(ages))
