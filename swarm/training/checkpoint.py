"""One step of the whole run on disk, in files that hold one decoder layer each, so that any spans can read it.

    step-00000120/
        model-00007.safetensors        parameters of layer 7, by their global names
        model-ends.safetensors         embedding, norm and head
        optimizer-00007.safetensors    `<parameter>/<what>`, and likewise for the ends
        tokenizer.json                 the run's, also where it is bytes
        manifest.json                  step, run, cursors, and the size and hash of every other file; written last

The folder bears another name until all of it is on the disk, and nothing is returned from a file whose hash the
manifest does not confirm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from swarm.config import RunConfig
from swarm.durable import publish, sha256_of, sync_folder
from swarm.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing, ConfigError
from swarm.model.parts import Kind, part_name

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"

_FORMAT = 1
_FOLDER = re.compile(r"step-(\d{8,})")
_ANOTHER = "use another checkpoint or fetch this one again"


def read_part(name: str, content: bytes) -> dict[str, Tensor]:
    """The tensors of a part that came over the network, by global name.

    Raises:
        CheckpointCorrupt: it is no safetensors file, or holds values that no training leaves behind.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointCorrupt(f"{name} is no safetensors file ({error})", "ask another replica") from None
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointCorrupt(f"{key} in {name} is not finite", "ask another replica")
    return tensors


def read_parts(parts: Mapping[str, bytes], kind: Kind) -> dict[str, Tensor]:
    """The tensors of every part of a kind, by global name; raises CheckpointCorrupt."""
    tensors: dict[str, Tensor] = {}
    for name, data in parts.items():
        if name.startswith(f"{kind}-"):
            tensors |= read_part(name, data)
    return tensors


class CheckpointWriter:
    """Writes one checkpoint, part by part. Leaving it without `finish` leaves nothing.

    Args:
        root: the folder of all checkpoints; made if it is missing.
        config: of the run.
        tokenizer_json: the text of the run's tokenizer.json.

    Raises:
        CheckpointError: the folder cannot be written.
    """

    def __init__(self, root: Path, config: RunConfig, tokenizer_json: str) -> None:
        self._root = root
        self._config = config
        self._folder = root / f".{uuid.uuid4().hex}.partial"
        self._files: dict[str, dict[str, int | str]] = {}
        try:
            self._folder.mkdir(parents=True)
            (self._folder / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
            self._record(TOKENIZER)
        except OSError as error:
            raise CheckpointError(f"cannot write to {root} ({error})", "free space or choose another folder") from None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def add_part(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write one part to the disk.

        Args:
            name: as `part_name` gives it; each once.
            tensors: by global name, on any device.

        Raises:
            CheckpointError: the part was added before, or the disk refuses.
        """
        file = f"{name}.safetensors"
        if file in self._files:
            raise CheckpointError(f"part {name} of the checkpoint comes twice", "report this: it is a bug")
        # On the CPU and contiguous is how the format wants them.
        plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        try:
            safetensors.torch.save_file(plain, self._folder / file)
            self._record(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"cannot write {file} ({error})", "free space or choose another folder") from None

    def finish(self, step: int, cursors: Mapping[str, int]) -> Path:
        """Write the manifest and give the folder its name; an older checkpoint of the same step gives way.

        Args:
            step: optimizer steps that the weights have seen.
            cursors: by owner, microbatches of its shard that these steps consumed.

        Returns:
            The checkpoint's folder.

        Raises:
            CheckpointError: the disk refuses.
        """
        manifest = {
            "format": _FORMAT,
            "step": step,
            "run_fingerprint": self._config.fingerprint,
            "run": self._config.to_json(),
            "cursors": dict(cursors),
            "files": self._files,
        }
        target = self._root / f"step-{step:08d}"
        try:
            (self._folder / MANIFEST).write_bytes(_seal(manifest))
            _sync_file(self._folder / MANIFEST)
            sync_folder(self._folder)
            if target.exists():
                # Two renames: a crash between them loses this step, but never leaves a mixture of both.
                target.rename(self._folder.with_suffix(".replaced.partial"))
            publish(self._folder, target)
        except OSError as error:
            raise CheckpointError(f"cannot finish {target} ({error})", "free space or choose another folder") from None
        shutil.rmtree(self._folder.with_suffix(".replaced.partial"), ignore_errors=True)
        return target

    def _record(self, file: str) -> None:
        path = self._folder / file
        _sync_file(path)
        self._files[file] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


class CheckpointReader:
    """Reads one checkpoint; every file is checked against the manifest before anything of it is returned.

    Args:
        folder: of the checkpoint.

    Raises:
        CheckpointMissing: no finished checkpoint there.
        CheckpointCorrupt: a manifest that is damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = _unseal(folder / MANIFEST)
        try:
            self.config = RunConfig.from_json(manifest["run"])
            self.step: int = manifest["step"]
            """Optimizer steps that the weights have seen."""
            self.cursors: dict[str, int] = manifest["cursors"]
            """By owner, microbatches of its shard that these steps consumed."""
            self._files: dict[str, dict[str, Any]] = manifest["files"]
            fingerprint = manifest["run_fingerprint"]
        except (KeyError, ConfigError) as error:
            raise CheckpointCorrupt(f"{folder / MANIFEST} is of another version ({error})", _ANOTHER) from None
        if fingerprint != self.config.fingerprint:
            raise CheckpointCorrupt(f"{folder / MANIFEST} names run {fingerprint} but holds another", _ANOTHER)

    @property
    def parts(self) -> list[str]:
        """Names of all parts, sorted."""
        return sorted(file.removesuffix(".safetensors") for file in self._files if file.endswith(".safetensors"))

    def verify(self) -> None:
        """Raises CheckpointCorrupt where any file is not what was written."""
        for file, described in self._files.items():
            path = self.folder / file
            try:
                intact = path.stat().st_size == described["bytes"] and sha256_of(path) == described["sha256"]
            except OSError as error:
                raise CheckpointCorrupt(f"{path} cannot be read ({error})", _ANOTHER) from None
            if not intact:
                raise CheckpointCorrupt(f"{path} is not what was written", _ANOTHER)

    def tokenizer_json(self) -> str:
        """The run's tokenizer.json.

        Raises:
            CheckpointCorrupt: the file is damaged or gone.
        """
        return self._verified(TOKENIZER).decode("utf-8")

    def part(self, name: str) -> dict[str, Tensor]:
        """Every tensor of one part, by global name, on the CPU.

        Raises:
            CheckpointCorrupt: the file is damaged, gone or not in the manifest.
        """
        tensors: dict[str, Tensor] = safetensors.torch.load(self.part_file(name))
        return tensors

    def part_file(self, name: str) -> bytes:
        """One part as it is in its file; errors as `part`."""
        return self._verified(f"{name}.safetensors")

    def tensors(self, kind: Kind, parameter_names: Iterable[str]) -> dict[str, Tensor]:
        """The weights of some parameters, or what the optimizer remembers of them.

        Args:
            kind: `model` or `optimizer`.
            parameter_names: global names.

        Returns:
            By parameter name, or by `<parameter name>/<what>`; on the CPU. Nothing for an optimizer that has nothing
            to remember: before the first step, or SGD without momentum.

        Raises:
            CheckpointCorrupt: a file is damaged, or a parameter is not in the checkpoint.
        """
        wanted = set(parameter_names)
        if kind == "optimizer" and not self._optimizer_remembers:
            return {}
        found: dict[str, Tensor] = {}
        for name in sorted({part_name(kind, parameter) for parameter in wanted}):
            for key, tensor in self.part(name).items():
                if key.partition("/")[0] in wanted:
                    found[key] = tensor
        if missing := wanted - {key.partition("/")[0] for key in found}:
            raise CheckpointCorrupt(f"{self.folder} has no {kind} state of {min(missing)}", _ANOTHER)
        return found

    @property
    def _optimizer_remembers(self) -> bool:
        optimizer = self.config.optimizer
        return self.step > 0 and not (optimizer.name == "sgd" and optimizer.momentum == 0)

    def _verified(self, file: str) -> bytes:
        path = self.folder / file
        described = self._files.get(file)
        if described is None:
            raise CheckpointCorrupt(f"{path} is not in the manifest", _ANOTHER)
        try:
            # The bytes that were hashed are the bytes that are used, whatever happens to the file meanwhile.
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointCorrupt(f"{path} cannot be read ({error})", _ANOTHER) from None
        if len(content) != described["bytes"] or hashlib.sha256(content).hexdigest() != described["sha256"]:
            raise CheckpointCorrupt(f"{path} is not what was written", _ANOTHER)
        return content


def newest_checkpoint(root: Path) -> Path:
    """The folder of the latest step under `root`; `root` itself where it is a checkpoint.

    Raises:
        CheckpointMissing: there is none.
    """
    return checkpoints(root)[0]


def checkpoints(root: Path) -> list[Path]:
    """The folders of all checkpoints under `root`, the latest step first; `root` alone where it is a checkpoint.

    Raises:
        CheckpointMissing: there is none.
    """
    if (root / MANIFEST).is_file():
        return [root]
    found = [path for path in root.glob("step-*") if _FOLDER.fullmatch(path.name)]
    if not found:
        raise CheckpointMissing(
            f"there is no checkpoint in {root}", "check the path; runs write one step-* folder each"
        )
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def prune(root: Path, kept: int) -> None:
    """Remove all but the newest checkpoints under `root`."""
    with contextlib.suppress(CheckpointMissing):
        for folder in checkpoints(root)[kept:]:
            doomed = folder.with_name(f".{folder.name}.partial")
            folder.rename(doomed)  # so that nobody finds half of one
            shutil.rmtree(doomed, ignore_errors=True)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, indent=1).encode()


def _seal(manifest: Mapping[str, Any]) -> bytes:
    return _canonical({**manifest, "sha256": hashlib.sha256(_canonical(manifest)).hexdigest()})


def _unseal(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointMissing(f"there is no checkpoint in {path.parent}", "check the path") from None
    except OSError as error:
        raise CheckpointCorrupt(f"{path} cannot be read ({error})", _ANOTHER) from None
    try:
        manifest: dict[str, Any] = json.loads(content)
        del manifest["sha256"]
        intact = _seal(manifest) == content
    except (ValueError, TypeError, KeyError):
        intact = False
    if not intact:
        raise CheckpointCorrupt(f"{path} is not what was written", _ANOTHER)
    if manifest.get("format") != _FORMAT:
        raise CheckpointCorrupt(f"{path} has format {manifest.get('format')}, not {_FORMAT}", _ANOTHER)
    return manifest
