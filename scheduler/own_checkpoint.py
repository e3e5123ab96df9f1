"""The scheduler's own newest checkpoint: where a run goes on if its members can bring nothing newer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from scheduler.run_dir import RunDir
from swarm.config import RunConfig
from swarm.errors import CheckpointCorrupt, CheckpointMissing, RunMismatch
from swarm.model.layout import Layout
from swarm.model.parts import parts_of
from swarm.model.spans import ENDS
from swarm.net.shelf import Shelf
from swarm.training.checkpoint import CheckpointReader, checkpoints


class OwnCheckpoint:
    """The newest checkpoint that is whole; an older one where a newer one is damaged.

    Args:
        shelf: where members find it.
    """

    def __init__(self, run_dir: RunDir, config: RunConfig, layout: Layout, shelf: Shelf) -> None:
        self._run_dir = run_dir
        self._config = config
        self._layout = layout
        self._shelf = shelf
        self._reader: CheckpointReader | None = None

    def look(self) -> list[str]:
        """Find it, and put it on the shelf; returns what is wrong with those that are damaged.

        Raises:
            RunMismatch: one of them is another run's.
        """
        problems = []
        try:
            folders = checkpoints(self._run_dir.checkpoints)
        except CheckpointMissing:
            folders = []
        self._reader = None
        self._shelf.clear()
        for folder in folders:
            try:
                self._reader = self._opened(CheckpointReader(folder))
                break
            except (CheckpointCorrupt, CheckpointMissing) as error:  # a lost manifest is damage, too
                problems.append(str(error))
        return problems

    def _opened(self, reader: CheckpointReader) -> CheckpointReader:
        if reader.config.fingerprint != self._config.fingerprint:
            raise RunMismatch(f"{reader.folder} is of another run", "move it out of the run's folder")
        reader.verify()
        trunk = (self._layout.trunk.first, self._layout.trunk.last)
        for span in (trunk, ENDS):
            names = [
                name
                for kind in ("model", "optimizer")
                for name in parts_of(kind, span, self._layout.trunk, self._layout.num_layers)
                if name in reader.parts
            ]
            self._shelf.put_copy(span, reader.step, _OnDisk(reader, names))
        return reader

    @property
    def num_steps(self) -> int | None:
        """That its weights have seen; None where there is none."""
        return None if self._reader is None else self._reader.step

    def cursors_at(self, num_steps: int) -> Mapping[str, int]:
        """By owner, the first microbatch that its steps have not used; nothing for a run that goes on elsewhere."""
        return {} if self._reader is None or self._reader.step > num_steps else self._reader.cursors


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
