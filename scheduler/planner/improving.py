"""Local search: moves and swaps of hosts that make the slowest stage faster, or the longest all-reduce shorter.

Each stage has a pressure, steep in its time to stream the batch and in its all-reduce; their sum falls with every
change. The steeper, the more the worst stage counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scheduler.planner.instance import Floats, Ints

_STEEPNESS = (40.0, 300.0, 2000.0)
"""Of the pressure, by parts of a step: a thousandth more is worth e at 1,000."""
_MOST = 300.0
"""Exponents are cut here."""
_WIDTH = 16
"""Candidates on the worst stage's side of a swap; eight times as many on the other."""
_WORTHWHILE = 1e-3
"""Of the worst stage's pressure: gains that are smaller are left."""
_FOCUSES = 3
"""Stages that are tried when the worst one cannot be helped."""


@dataclass(slots=True, eq=False)
class Filled:
    """Hosts in stages; changed in place.

    Attributes:
        stage: of each host, -1 stands by.
        kind: of each stage, row of `rates`: its size.
        rates: sizes x hosts; microbatches a second, 0 where a host cannot be.
        lines: bytes/s of each host in an all-reduce.
        group: of each host; routes stay within groups, so each has its share of the rate in every stage.
        need_bytes: of each stage, gradient bytes, twice.
        batches: of each group, microbatches of a step.
        overlapped: all-reduces and the rest run at once.
        target_stream_s, target_sync_s: of the batch and of an all-reduce.
        by_rate: sizes x hosts; those with the lowest rates first.
    """

    stage: Ints
    kind: Ints
    rates: Floats
    lines: Floats
    group: Ints
    need_bytes: Floats
    batches: Floats
    overlapped: bool
    target_stream_s: float
    target_sync_s: float
    by_rate: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Sort once: moves change no rates."""
        self.by_rate = np.argsort(self.rates, axis=1, kind="stable")


class _Pressure:
    """Of stages, at one steepness; rates are those of one group in a stage, a cell."""

    def __init__(self, filled: Filled, steepness: float) -> None:
        batches = filled.batches
        number, groups = len(filled.kind), len(batches)
        used = np.flatnonzero(filled.stage >= 0)
        stage = filled.stage[used]
        self._filled, self._batches = filled, batches
        cell = stage * groups + filled.group[used]
        own = filled.rates[filled.kind[stage], used]
        self._rate = np.bincount(cell, weights=own, minlength=number * groups).reshape(number, groups)
        self._line: Floats = np.bincount(stage, weights=filled.lines[used], minlength=number).astype(np.float64)
        self._count = np.bincount(stage, minlength=number)
        whole_s = filled.target_stream_s + (0.0 if filled.overlapped else filled.target_sync_s)
        self._scale = steepness / whole_s
        self._late = self._steep(batches / np.maximum(self._rate, 1e-12) - filled.target_stream_s)
        self._reduce = self._reducing(self._line, self._count, filled.need_bytes)

    def _steep(self, over_s: Floats) -> Floats:
        pressed: Floats = np.exp(np.minimum(over_s * self._scale, _MOST))
        return pressed

    def _reducing(self, line: Floats, count: Ints, need: Floats) -> Floats:
        reduce_s = np.where(count > 1, need * (count - 1) / np.maximum(line, 1e-12), 0.0)
        pressed: Floats = np.where(count < 1, np.inf, self._steep(reduce_s - self._filled.target_sync_s))
        return pressed

    def of_stages(self) -> Floats:
        """Of each."""
        pressed: Floats = self._late.sum(axis=1) + self._reduce
        return pressed

    def rise(self, stage: Ints, group: Ints, rate: Floats, line: Floats, count: int) -> Floats:
        """By how much it rises in stages with so much more rate in a group, line and members; 0 for standbys."""
        at = np.maximum(stage, 0)
        late = self._steep(
            self._batches[group] / np.maximum(self._rate[at, group] + rate, 1e-12) - self._filled.target_stream_s
        )
        reduce = self._reducing(self._line[at] + line, self._count[at] + count, self._filled.need_bytes[at])
        risen: Floats = late - self._late[at, group] + reduce - self._reduce[at]
        counted: Floats = np.where(stage < 0, 0.0, risen)
        return counted


def improve(filled: Filled, moves: int) -> None:
    """Improve the stages of `filled`, at most so many times at each steepness."""
    if not filled.batches.any():
        # All of them would reduce too late, or have no place: nothing says which group should do how much.
        return
    for steepness in _STEEPNESS:
        for _ in range(moves):
            if not _improved(filled, _Pressure(filled, steepness)):
                break


def _improved(filled: Filled, pressure: _Pressure) -> bool:
    now = pressure.of_stages()
    for focus in np.argsort(-now, kind="stable")[:_FOCUSES].tolist():
        options = (_coming(filled, pressure, focus), _going(filled, pressure, focus), _swapped(filled, pressure, focus))
        gain, changes = max(options, key=lambda option: option[0])
        if gain > _WORTHWHILE * float(now[focus]):
            for host, stage in changes:
                filled.stage[host] = stage
            return True
    return False


_Option = tuple[float, list[tuple[int, int]]]
"""What is gained, and which hosts go where."""


def _coming(filled: Filled, pressure: _Pressure, focus: int) -> _Option:
    """A host from elsewhere."""
    gained = filled.rates[filled.kind[focus]]
    hosts = np.flatnonzero((filled.stage != focus) & (gained > 0))
    if not len(hosts):
        return 0.0, []
    source, group, lines = filled.stage[hosts], filled.group[hosts], filled.lines[hosts]
    lost = filled.rates[filled.kind[source], hosts]
    gains = -pressure.rise(np.full(len(hosts), focus), group, gained[hosts], lines, 1)
    gains = gains - pressure.rise(source, group, -lost, -lines, -1)
    best = int(gains.argmax())
    return float(gains[best]), [(int(hosts[best]), focus)]


def _going(filled: Filled, pressure: _Pressure, focus: int) -> _Option:
    """A host of its own, to any other stage or to stand by."""
    hosts = np.flatnonzero(filled.stage == focus)
    if len(hosts) < 2:
        return 0.0, []
    lines, group = filled.lines[hosts], filled.group[hosts]
    lost = filled.rates[filled.kind[focus], hosts]
    left = -pressure.rise(np.full(len(hosts), focus), group, -lost, -lines, -1)
    others = np.array([number for number in range(len(filled.kind)) if number != focus], dtype=np.int64)
    gained = filled.rates[filled.kind[others]][:, hosts]
    target = np.broadcast_to(others[:, None], gained.shape)
    risen = pressure.rise(target, np.broadcast_to(group, gained.shape), gained, np.broadcast_to(lines, gained.shape), 1)
    gains = np.vstack([np.where(gained > 0, left - risen, -np.inf), left])
    row, column = np.unravel_index(int(gains.argmax()), gains.shape)
    return float(gains[row, column]), [(int(hosts[column]), int(others[row]) if row < len(others) else -1)]


def _swapped(filled: Filled, pressure: _Pressure, focus: int) -> _Option:
    """A host of its own for one from elsewhere, of the same group."""
    here_rates, order = filled.rates[filled.kind[focus]], filled.by_rate[filled.kind[focus]]
    is_here = filled.stage[order] == focus
    coming = _spread(order[~is_here & (here_rates[order] > 0)], _WIDTH * 8)
    going = _spread(order[is_here], _WIDTH)
    if not len(coming) or not len(going):
        return 0.0, []
    source = np.broadcast_to(filled.stage[coming][:, None], (len(coming), len(going)))
    group = np.broadcast_to(filled.group[going][None, :], source.shape)
    kind = filled.kind[filled.stage[coming]]
    back = np.where(source >= 0, filled.rates[kind][:, going], 0.0)
    possible = ((source < 0) | (back > 0)) & (filled.group[coming][:, None] == group)
    lines = filled.lines[coming][:, None] - filled.lines[going][None, :]
    rates = here_rates[coming][:, None] - here_rates[going][None, :]
    lost = back - filled.rates[kind, coming][:, None]
    risen = pressure.rise(np.full(source.shape, focus), group, rates, lines, 0)
    risen = risen + pressure.rise(source, group, lost, -lines, 0)
    gains = np.where(possible, -risen, -np.inf)
    row, column = np.unravel_index(int(gains.argmax()), gains.shape)
    return float(gains[row, column]), [(int(coming[row]), focus), (int(going[column]), int(source[row, column]))]


def _spread(ranked: Ints, most: int) -> Ints:
    """At most so many, evenly."""
    if len(ranked) <= most:
        return ranked
    return ranked[np.linspace(0, len(ranked) - 1, most).astype(np.int64)]
