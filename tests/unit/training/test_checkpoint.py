"""A checkpoint is whole and intact, or it does not load."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swarm.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from swarm.model.parts import split_into_parts
from swarm.model.slices import build_ends, build_trunk_slice, named_global_parameters
from swarm.model.spans import LayerSpan
from swarm.training.checkpoint import CheckpointReader, CheckpointWriter, newest_checkpoint
from swarm.training.optimizer import apply, build_optimizer, state_tensors
from tests.support.tiny_models import run_config

CONFIG = run_config("llama-tied")


def _tensors() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and optimizer state of all pieces after one step."""
    weights: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for piece in (build_trunk_slice(CONFIG, LayerSpan(1, 4)), build_ends(CONFIG)):
        named = named_global_parameters(piece)
        optimizer = build_optimizer(CONFIG.optimizer, named)
        for _, parameter in named:
            parameter.grad = torch.ones_like(parameter)
        apply(optimizer, CONFIG.optimizer, CONFIG.schedule, 0, 1.0)
        weights.update(named)
        state.update(state_tensors(optimizer))
    return weights, state


WEIGHTS, STATE = _tensors()


def _write(root: Path, step: int = 120) -> Path:
    with CheckpointWriter(root, CONFIG, '{"a": 1}') as writer:
        for name, part in {**split_into_parts("model", WEIGHTS), **split_into_parts("optimizer", STATE)}.items():
            writer.add_part(name, part)
        return writer.finish(step, {"alice": 17, "bob": 3})


def _load_everything(folder: Path) -> None:
    reader = CheckpointReader(folder)
    reader.tokenizer_json()
    for name in reader.parts:
        reader.part(name)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    assert folder.name == "step-00000120"
    reader = CheckpointReader(folder)
    assert (reader.step, reader.cursors, reader.config) == (120, {"alice": 17, "bob": 3}, CONFIG)
    assert reader.tokenizer_json() == '{"a": 1}'
    assert [name for name in reader.parts if name.startswith("model")] == [
        *(f"model-0000{layer}" for layer in range(5)),
        "model-ends",
    ]
    for kind, expected in (("model", WEIGHTS), ("optimizer", STATE)):
        read = reader.tensors(kind, WEIGHTS)  # type: ignore[arg-type]
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[name], expected[name]) for name in expected)


def test_any_span_reads_only_its_layers(tmp_path: Path) -> None:
    folder = _write(tmp_path)
    names = [name for name, _ in named_global_parameters(build_trunk_slice(CONFIG, LayerSpan(2, 3)))]
    (folder / "model-00003.safetensors").unlink()
    assert CheckpointReader(folder).tensors("model", names).keys() == set(names)


def test_every_flipped_byte_of_the_manifest_is_noticed(tmp_path: Path) -> None:
    manifest = _write(tmp_path) / "manifest.json"
    content = manifest.read_bytes()
    for place in range(len(content)):
        manifest.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointCorrupt, match=r"manifest\.json"):
            CheckpointReader(manifest.parent)


@pytest.mark.parametrize("damage", ["flip-first", "flip-middle", "flip-last", "truncate", "extend", "empty", "remove"])
def test_damaged_files_are_named_and_never_load(tmp_path: Path, damage: str) -> None:
    folder = _write(tmp_path)
    for file in sorted(folder.iterdir()):
        if file.name == "manifest.json":
            continue
        content = file.read_bytes()
        _damage(file, content, damage)
        with pytest.raises(CheckpointCorrupt, match=file.name):
            _load_everything(folder)
        file.write_bytes(content)
    _load_everything(folder)


def _damage(file: Path, content: bytes, damage: str) -> None:
    if damage.startswith("flip"):
        place = {"flip-first": 0, "flip-middle": len(content) // 2, "flip-last": len(content) - 1}[damage]
        file.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
    elif damage == "remove":
        file.unlink()
    else:
        file.write_bytes({"truncate": content[:-1], "extend": content + b"\0", "empty": b""}[damage])


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    manifest = _write(tmp_path) / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(CheckpointCorrupt):
        CheckpointReader(manifest.parent)


def test_a_writer_that_does_not_finish_leaves_nothing(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, CONFIG, "{}") as writer:
        writer.add_part("model-ends", {"x": torch.zeros(1)})
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointMissing):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_writer_that_dies_at_the_end_is_not_loadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    _write(tmp_path, step=100)
    writer = CheckpointWriter(tmp_path, CONFIG, "{}")
    writer.add_part("model-ends", {"x": torch.zeros(1)})
    fired = []

    def fail(*_: object) -> None:
        fired.append(call)
        raise OSError("no space left on device")

    monkeypatch.setattr(*((Path, "rename") if call == "rename" else (os, "fsync")), fail)
    # As a killed process: no `__exit__`, so the unfinished folder stays behind.
    with pytest.raises(CheckpointError, match="no space left"):
        writer.finish(120, {})
    monkeypatch.undo()
    assert fired
    assert newest_checkpoint(tmp_path).name == "step-00000100"


def test_the_newest_step_counts_and_writing_it_again_replaces_it(tmp_path: Path) -> None:
    _write(tmp_path, step=9)
    _write(tmp_path, step=120)
    with CheckpointWriter(tmp_path, CONFIG, "{}") as writer:
        writer.add_part("model-ends", {"x": torch.zeros(1)})
        writer.finish(120, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000009", "step-00000120"]
    assert CheckpointReader(newest_checkpoint(tmp_path)).parts == ["model-ends"]
    assert newest_checkpoint(tmp_path / "step-00000009").name == "step-00000009"


def test_a_part_comes_once(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, CONFIG, "{}") as writer:
        writer.add_part("model-ends", {})
        with pytest.raises(CheckpointError, match="twice"):
            writer.add_part("model-ends", {})


def test_an_absent_parameter_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"model\.extra"):
        CheckpointReader(_write(tmp_path)).tensors("model", ["model.extra"])


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="no checkpoint"):
        CheckpointReader(tmp_path / "absent")
