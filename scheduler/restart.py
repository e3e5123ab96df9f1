"""Where a run goes on after its scheduler was stopped or killed: at its newest whole checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from scheduler.audit_log import AuditLog
from scheduler.run_dir import RunDir
from swarm.config import RunConfig
from swarm.errors import CheckpointMissing, RunMismatch
from swarm.model.blueprint import Layout
from swarm.model.parts import parts_of
from swarm.model.spans import ENDS
from swarm.net.shelf import Shelf
from swarm.training.checkpoint import CheckpointReader, newest_checkpoint


@dataclass(frozen=True, slots=True)
class Restart:
    """What a scheduler begins with.

    Attributes:
        next_step: the first step to compute; also the number of steps that the checkpoint's weights have seen.
        plan_number: higher than any before.
        cursors: by owner, the first microbatch of its shard that no kept step has used.
        checkpoint: None for a run that begins.
    """

    next_step: int = 0
    plan_number: int = 1
    cursors: Mapping[str, int] = field(default_factory=dict)
    checkpoint: CheckpointReader | None = None

    def shelf(self, layout: Layout) -> Shelf:
        """The checkpoint's parts, for members to fetch; nothing for a run that begins."""
        shelf = Shelf()
        if self.checkpoint is None:
            return shelf
        trunk = (layout.trunk.first, layout.trunk.last)
        for span in (trunk, ENDS):
            names = [
                name
                for kind in ("model", "optimizer")
                for name in parts_of(kind, span, layout.trunk, layout.num_layers)
                if name in self.checkpoint.parts
            ]
            shelf.put_copy(span, self.next_step, _OnDisk(self.checkpoint, names))
        return shelf


class _OnDisk(Mapping[str, bytes]):
    """Parts that are read when somebody wants them; the last one is kept, since it is fetched piece by piece."""

    def __init__(self, reader: CheckpointReader, names: list[str]) -> None:
        self._reader = reader
        self._names = names
        self._last: tuple[str, bytes] = ("", b"")

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        if self._last[0] != name:
            self._last = name, self._reader.part_file(name)
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def restart_of(run_dir: RunDir, config: RunConfig, log: AuditLog) -> Restart:
    """Find where to go on, and let the log end there; what it loses is kept in a file beside it.

    Raises:
        CheckpointCorrupt: the newest checkpoint's manifest is damaged.
        RunMismatch: it is another run's.
    """
    plan_number = log.last_plan + 1
    try:
        reader = CheckpointReader(newest_checkpoint(run_dir.checkpoints))
    except CheckpointMissing:
        log.rewind(0)
        return Restart(0, plan_number)
    if reader.config.fingerprint != config.fingerprint:
        raise RunMismatch(f"{reader.folder} is of another run", "move it out of the run's folder")
    log.rewind(reader.step)
    return Restart(reader.step, plan_number, reader.cursors, reader)
