"""How the journal of one group lies on the disk: every file is whole or absent, and says what it must hold.

    snapshot-00000016/              the state after 16 steps
        model-00002.safetensors     one file a part
        manifest.json               sealed: steps, round, size and hash of every other file; written last
    average-00000016.bin            leads from 16 to 17 steps: one sealed line (step, round, sizes, hashes), then the
                                    step's record, then the parts
    average-00000016.committed      sealed: the round whose average was committed, and the whole model's norm
    *.partial                       not finished, or on its way out; removed at the next start

Something sealed is the SHA-256 of a JSON text, a blank and that text in one line, so a flipped bit anywhere shows.

Snapshots are fsynced: they are what is left after a power cut. Averages and marks are not: the page cache outlives a
killed process, which is what they are for, and an fsync a step would cost more than the step's own disk traffic. What a
power cut takes of them is noticed as any damage is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from swarm.durable import publish, sync_folder, with_checksum, without_checksum
from swarm.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from swarm.wire.messages import RoundKey

_FORMAT = 1
_MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_SUFFIX = ".safetensors"
_ENTRY = re.compile(r"snapshot-\d{8,}|average-\d{8,}\.(?:bin|committed)")
_MAX_LINE_BYTES = 1 << 20
_FREE_SPACE = "free space, raise the journal's budget or choose another folder"
_REBUILD = "rebuild an older state or fetch it from another replica"


@dataclass(frozen=True, slots=True)
class Average:
    """One step's averaged gradient of a group."""

    parts: dict[str, bytes]
    """By part name, safetensors files."""
    key: RoundKey
    grad_norm: float | None
    """Of the whole model's gradient; None where the average is not known to be committed."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a folder holds, as far as sizes and seals tell."""

    snapshots: dict[int, RoundKey]
    """By their numbers of steps, the rounds that led to them."""
    averages: dict[int, RoundKey]
    """By the step they belong to, the rounds that they come from."""
    committed: dict[int, float]
    """The whole model's gradient norm by step, where the average was committed."""


def encode_snapshot(num_steps: int, key: RoundKey, parts: Mapping[str, bytes]) -> dict[str, bytes]:
    """A snapshot's files by name, the manifest last."""
    files = {f"{name}{_SUFFIX}": content for name, content in parts.items()}
    described = {name: _describe(content) for name, content in files.items()}
    manifest = {"num_steps": num_steps, "term": key.term, "round": key.round, "files": described}
    return files | {_MANIFEST: _seal(manifest)}


def encode_average(step: int, key: RoundKey, parts: Mapping[str, bytes], record: bytes) -> list[bytes]:
    """An average's file, in pieces."""
    header = {
        "step": step,
        "term": key.term,
        "round": key.round,
        "record": _describe(record),
        "parts": {name: _describe(content) for name, content in parts.items()},
    }
    return [_seal(header), record, *parts.values()]


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had not finished, in a folder and the folders in it; raises CheckpointError."""
    with refusals(f"tidy {folder}"):
        for pattern in (f"*{_PARTIAL}", f"*/*{_PARTIAL}"):
            for path in list(folder.glob(pattern)):
                _remove(path)


def remove_at_once(folder: Path) -> None:
    """Remove a folder such that it is whole or gone, whatever happens; raises CheckpointError."""
    with refusals(f"remove {folder}"):
        condemned = folder.with_name(f".{uuid.uuid4().hex}{_PARTIAL}")
        folder.rename(condemned)
        _remove(condemned)


@contextmanager
def refusals(deed: str) -> Iterator[None]:
    """Turn what the disk says into a CheckpointError: "cannot `deed`"."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot {deed} ({error})", _FREE_SPACE) from None


class GroupFolder:
    """One group's snapshots and averages.

    Args:
        path: of the folder; made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def num_bytes(self) -> int:
        """Of all files together; raises CheckpointError."""
        with refusals(f"read {self.path}"):
            return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def facts(self) -> Facts:
        """What is here; what is damaged in a way that sizes or seals show is not.

        Raises:
            CheckpointError: the disk refuses; files that cannot be read for the moment are no reason to forget them.
        """
        snapshots: dict[int, RoundKey] = {}
        averages: dict[int, RoundKey] = {}
        committed: dict[int, float] = {}
        for name in self._names():
            kind, number = _parse(name)
            with suppress(CheckpointCorrupt, CheckpointMissing):
                if kind == "snapshot":
                    snapshots[number] = _key(self._manifest(number))
                elif name.endswith(".bin"):
                    with _reading(self.path / name) as file:
                        averages[number] = _key(_read_header(file, number))
                    if (grad_norm := self._grad_norm(number, averages[number])) is not None:
                        committed[number] = grad_norm
        return Facts(snapshots, averages, committed)

    def write_snapshot(self, num_steps: int, files: Mapping[str, bytes]) -> None:
        """Write what `encode_snapshot` made; one of the same number of steps gives way; raises CheckpointError."""
        target = self._snapshot_path(num_steps)
        staging = self.path / f".{uuid.uuid4().hex}{_PARTIAL}"
        try:
            with refusals(f"write {target}"):
                self._make()
                staging.mkdir()
                for name, content in files.items():
                    with (staging / name).open("wb") as file:
                        _write(file, content)
                        file.flush()
                        os.fsync(file.fileno())
                sync_folder(staging)
                if target.exists():
                    remove_at_once(target)
                publish(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @contextmanager
    def writing_average(self, step: int, pieces: list[bytes]) -> Iterator[None]:
        """Write what `encode_average` made; the block runs before it takes its name, and that of an older one.

        Raises:
            CheckpointError: the disk refuses; the block did not run if it refused the writing.
        """
        with refusals(f"write {self._average_path(step)}"):
            self._make()
            with _appearing(self._average_path(step), pieces):
                yield

    def write_mark(self, step: int, key: RoundKey, grad_norm: float) -> None:
        """Note that this round's average was committed; raises CheckpointError."""
        mark = _seal({"step": step, "term": key.term, "round": key.round, "grad_norm": grad_norm})
        path = self._mark_path(step)
        with refusals(f"write {path}"), _appearing(path, [mark]):
            pass

    def snapshot(self, num_steps: int) -> dict[str, bytes]:
        """A snapshot's parts, every one checked by its hash.

        Raises:
            CheckpointCorrupt: it is damaged.
            CheckpointMissing: there is none.
        """
        parts = {}
        for name, described in self._manifest(num_steps)["files"].items():
            with _reading(self._snapshot_path(num_steps) / name) as file:
                parts[name.removesuffix(_SUFFIX)] = _read_verified(file, described)
        return parts

    def average(self, step: int) -> Average:
        """An average, every part checked by its hash; errors as `snapshot`."""
        with _reading(self._average_path(step)) as file:
            header = _read_header(file, step)
            _read_verified(file, header["record"])
            parts = {name: _read_verified(file, described) for name, described in header["parts"].items()}
        return Average(parts, _key(header), self._grad_norm(step, _key(header)))

    def record(self, step: int) -> bytes:
        """The record that was kept with an average; errors as `snapshot`."""
        with _reading(self._average_path(step)) as file:
            return _read_verified(file, _read_header(file, step)["record"])

    def retain(self, snapshots: frozenset[int], averages: frozenset[int]) -> None:
        """Remove all other snapshots, averages and marks, damaged ones too; raises CheckpointError.

        The newest goes first, so that a process killed half-way leaves a shorter history and not another one. Marks
        go before their averages, so that none is left to vouch for an average to come.
        """
        doomed = []
        for name in self._names():
            kind, number = _parse(name)
            if number not in (snapshots if kind == "snapshot" else averages):
                num_steps = number if kind == "snapshot" else number + 1
                doomed.append((num_steps, kind == "snapshot", name.endswith(".committed"), name))
        for *_, name in sorted(doomed, reverse=True):
            path = self.path / name
            if path.is_dir():
                remove_at_once(path)
            else:
                with refusals(f"remove {path}"):
                    path.unlink()

    def _names(self) -> list[str]:
        with refusals(f"read {self.path}"):
            try:
                return [name for name in os.listdir(self.path) if _ENTRY.fullmatch(name)]
            except FileNotFoundError:
                return []

    def _make(self) -> None:
        if not self.path.exists():
            self.path.mkdir()
            sync_folder(self.path.parent)

    def _snapshot_path(self, num_steps: int) -> Path:
        return self.path / f"snapshot-{num_steps:08d}"

    def _average_path(self, step: int) -> Path:
        return self.path / f"average-{step:08d}.bin"

    def _mark_path(self, step: int) -> Path:
        return self.path / f"average-{step:08d}.committed"

    def _manifest(self, num_steps: int) -> dict[str, Any]:
        folder = self._snapshot_path(num_steps)
        with _reading(folder / _MANIFEST) as file:
            manifest = _unseal(file)
        if manifest["num_steps"] != num_steps:
            raise CheckpointCorrupt(f"{folder} holds the state after {manifest['num_steps']} steps", _REBUILD)
        for name, described in manifest["files"].items():
            with _reading(folder / name) as file:
                _expect_bytes(file, described["bytes"])
        return manifest

    def _grad_norm(self, step: int, key: RoundKey) -> float | None:
        try:
            with _reading(self._mark_path(step)) as file:
                mark = _unseal(file)
                _expect_bytes(file, file.tell())
        except (CheckpointCorrupt, CheckpointMissing):
            return None
        # The mark of a round that another one has replaced says nothing.
        return float(mark["grad_norm"]) if (mark["step"], _key(mark)) == (step, key) else None


@contextmanager
def _appearing(path: Path, pieces: list[bytes]) -> Iterator[None]:
    """Write a file beside `path` that takes its place after the block, or vanishes with an exception."""
    temporary = path.with_name(f"{path.name}{_PARTIAL}")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                _write(file, piece)
        yield
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointMissing(f"there is no {path}", _REBUILD) from None
    except OSError as error:
        # Only what the medium lost is damaged. Too many open files, say, pass.
        if error.errno == errno.EIO:
            raise CheckpointCorrupt(f"{path} cannot be read ({error})", _REBUILD) from None
        raise CheckpointError(f"cannot read {path} ({error})", "let this user read it, then try again") from None


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _parse(name: str) -> tuple[str, int]:
    kind, _, rest = name.partition("-")
    return kind, int(rest.partition(".")[0])


def _key(values: Mapping[str, Any]) -> RoundKey:
    return RoundKey(values["term"], values["round"])


def _describe(content: bytes) -> dict[str, int | str]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read_verified(file: IO[bytes], described: Mapping[str, Any]) -> bytes:
    content = file.read(described["bytes"])
    if _describe(content) != described:
        raise CheckpointCorrupt(f"{file.name} is not what was written", _REBUILD)
    return content


def _read_header(file: IO[bytes], step: int) -> dict[str, Any]:
    header = _unseal(file)
    if header["step"] != step:
        raise CheckpointCorrupt(f"{file.name} holds the average of step {header['step']}", _REBUILD)
    described = [header["record"], *header["parts"].values()]
    _expect_bytes(file, file.tell() + sum(each["bytes"] for each in described))
    return header


def _expect_bytes(file: IO[bytes], num_bytes: int) -> None:
    found = os.fstat(file.fileno()).st_size
    if found != num_bytes:
        raise CheckpointCorrupt(f"{file.name} has {found} bytes instead of {num_bytes}", _REBUILD)


def _seal(values: Mapping[str, Any]) -> bytes:
    return with_checksum(json.dumps({"format": _FORMAT, **values}).encode())


def _unseal(file: IO[bytes]) -> dict[str, Any]:
    text = without_checksum(file.readline(_MAX_LINE_BYTES))
    if text is None:
        raise CheckpointCorrupt(f"{file.name} is not what was written", _REBUILD)
    values: dict[str, Any] = json.loads(text)
    if values["format"] != _FORMAT:
        raise CheckpointCorrupt(f"{file.name} has format {values['format']}, not {_FORMAT}", _REBUILD)
    return values
