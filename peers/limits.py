"""What people allow a peer on their machine to take, and when; whether it may work now is decided here. Pure.

A limit of 0, or an empty text, is none. The file is `limits.toml` in the peer's folder (`peers.limits_file`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from swarm.config import check_line_limit
from swarm.errors import ConfigError
from swarm.wire.messages import Capabilities

QUIET_S = 300.0
"""A machine that nobody has used for so long is idle."""
_DAY_MIN = 24 * 60
_HOURS = re.compile(r"(\d{1,2})(?::(\d\d))?-(\d{1,2})(?::(\d\d))?")
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one peer.

    Attributes:
        memory_bytes: for the swarm, at most.
        up_bytes_per_s, down_bytes_per_s: that plans may count on, and that are sent and received, at most.
        daily_bytes: sent and received together between two midnights, at most.
        hours: when it may work, in local time: `22-7`, `9:30-17`.
        only_when_idle: while nobody else uses the machine.
        only_on_mains: while the machine does not run on its battery.
    """

    memory_bytes: int = 0
    up_bytes_per_s: float = 0.0
    down_bytes_per_s: float = 0.0
    daily_bytes: int = 0
    hours: str = ""
    only_when_idle: bool = False
    only_on_mains: bool = False

    def __post_init__(self) -> None:
        amounts = (self.memory_bytes, self.daily_bytes)
        if not all(0 <= amount < 1e15 for amount in amounts):
            raise ConfigError(f"a limit is below 0, or beyond any machine: {amounts}", "set it to 0 for none, or more")
        for rate in (self.up_bytes_per_s, self.down_bytes_per_s):
            check_line_limit(rate)
        window(self.hours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Of the machine, now.

    Attributes:
        minute: of the day, local time.
        on_battery: False where that is not known.
        unused_s: since somebody typed, or another program kept the processors busy.
        today_bytes: sent and received since midnight.
    """

    minute: int
    on_battery: bool
    unused_s: float
    today_bytes: int


def window(hours: str) -> tuple[int, int] | None:
    """First minute of the day, and the first one after; None for always.

    Raises:
        ConfigError: not two different times of day.
    """
    if not hours:
        return None
    found = _HOURS.fullmatch(hours)
    if found is not None:
        first_h, first_min, last_h, last_min = (int(each or 0) for each in found.groups())
        first, last = 60 * first_h + first_min, 60 * last_h + last_min
        if max(first_min, last_min) < 60 and max(first, last) <= _DAY_MIN and first % _DAY_MIN != last % _DAY_MIN:
            return first % _DAY_MIN, last % _DAY_MIN
    raise ConfigError(f"the hours are {hours!r}", "give two times of day, such as 22-7 or 9:30-17")


def why_not_now(limits: Limits, now: Circumstances) -> str:
    """Why the peer may not work now, in a person's words; empty where it may."""
    span = window(limits.hours)
    if span is not None:
        first, last = span
        is_inside = first <= now.minute < last if first < last else now.minute >= first or now.minute < last
        if not is_inside:
            return f"it may work from {_clock(first)} to {_clock(last)}"
    if limits.only_on_mains and now.on_battery:
        return "the machine runs on its battery"
    if limits.daily_bytes and now.today_bytes >= limits.daily_bytes:
        return f"today's {limits.daily_bytes / _GIB:g} GiB are sent and received"
    if limits.only_when_idle and now.unused_s < QUIET_S:
        return "somebody uses the machine"
    return ""


def announced(limits: Limits, measured: Capabilities) -> Capabilities:
    """What a peer says of itself: what it measured, or its limits where those are less."""
    return replace(
        measured,
        memory_bytes=int(within(limits.memory_bytes, measured.memory_bytes)),
        up_bytes_per_s=within(limits.up_bytes_per_s, measured.up_bytes_per_s),
        down_bytes_per_s=within(limits.down_bytes_per_s, measured.down_bytes_per_s),
    )


def stricter(one: float, other: float) -> float:
    """Of two limits; 0 is none."""
    return min(one, other) if one and other else one or other


def within(limit: float, measured: float) -> float:
    """What was measured, or the user's limit where that is less; a limit of 0 is none."""
    return min(limit, measured) if limit else measured


def _clock(minute: int) -> str:
    return f"{minute // 60}:{minute % 60:02d}"
