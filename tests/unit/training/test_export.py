"""An export is what transformers loads: the same logits, the same token ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from swarm.config import RunConfig
from swarm.data.tokenizer import ByteTokenizer
from swarm.errors import CheckpointCorrupt, CheckpointMissing, ConfigError, TargetExists
from swarm.model.parts import split_into_parts
from swarm.model.slices import build_full, named_global_parameters
from swarm.training import verbs
from swarm.training.checkpoint import CheckpointWriter
from swarm.training.export import export
from swarm.training.generate import generate
from tests.support.tiny_models import FAMILIES, run_config

torch.set_num_threads(1)


def _checkpoint(root: Path, config: RunConfig) -> Path:
    """A checkpoint whose weights are not the initial ones."""
    weights = {name: value.detach() + 0.01 for name, value in named_global_parameters(build_full(config))}
    with CheckpointWriter(root, config, ByteTokenizer().to_json()) as writer:
        for name, part in split_into_parts("model", weights).items():
            writer.add_part(name, part)
        return writer.finish(7, {})


def _expected_model(config: RunConfig) -> torch.nn.Module:
    model = build_full(config).eval()
    with torch.no_grad():
        for _, value in named_global_parameters(model):
            value.add_(0.01)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_computes_what_the_run_computes(tmp_path: Path, family: str) -> None:
    config = run_config(family)
    export(_checkpoint(tmp_path, config), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    token_ids = torch.arange(32).reshape(2, 16)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=token_ids).logits, _expected_model(config)(input_ids=token_ids).logits)
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral-sliding-window", "olmo2"])
def test_the_exported_tokenizer_gives_the_runs_ids(tmp_path: Path, family: str) -> None:
    export(_checkpoint(tmp_path, run_config(family)), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    text = " Über 漢字\n\n  don't  stop , x"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text


def test_a_target_with_content_is_left_alone(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, run_config())
    target = tmp_path / "out"
    target.mkdir()
    export(checkpoint, target)
    before = sorted(target.iterdir())
    with pytest.raises(TargetExists):
        export(checkpoint, target)
    assert sorted(target.iterdir()) == before
    with pytest.raises(TargetExists):
        export(checkpoint, checkpoint / "manifest.json")


def test_a_damaged_checkpoint_exports_nothing(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "run", run_config())
    (checkpoint / "model-00002.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt, match="model-00002"):
        export(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_checkpoint_and_export_generate_the_same(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "run", run_config())
    export(checkpoint, tmp_path / "out")
    texts = [generate(path, "To be", 20, 0.9, 4) for path in (checkpoint, tmp_path / "run", tmp_path / "out")]
    assert len(set(texts)) == 1
    assert texts[0].startswith("To be")
    assert generate(checkpoint, "To be", 20, 0.9, 5) != texts[0]
    assert generate(checkpoint, "a", 5, 0.0, 1) == generate(checkpoint, "a", 5, 0.0, 2)


def test_generate_says_what_is_wrong(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path, run_config())
    with pytest.raises(ConfigError, match="prompt is empty"):
        generate(checkpoint, "", 5, 1.0, 1)
    with pytest.raises(ConfigError, match="temperature"):
        generate(checkpoint, "a", 5, -1.0, 1)
    with pytest.raises(CheckpointMissing):
        generate(tmp_path / "absent", "a", 5, 1.0, 1)


def test_the_verbs_print_json_lines(tmp_path: Path) -> None:
    program = typer.Typer()
    program.command("export")(verbs.export)
    program.command("generate")(verbs.generate)
    checkpoint, target = _checkpoint(tmp_path, run_config()), tmp_path / "out"
    run = CliRunner().invoke
    exported = run(program, ["export", str(tmp_path), str(target), "--json"])
    assert json.loads(exported.stdout) == {"checkpoint": str(checkpoint), "export_dir": str(target)}
    generated = run(program, ["generate", str(target), "--prompt", "Hi", "--tokens", "3", "--json"])
    assert json.loads(generated.stdout)["text"].startswith("Hi")
