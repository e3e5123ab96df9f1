"""What the model is made of is measured once a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.layout_file import layout_of
from swarm.model.blueprint import layout
from tests.support.tiny_models import run_config


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, file = run_config(), tmp_path / "layout.json"
    assert layout_of(config, file) == layout(config)
    monkeypatch.setattr("swarm.model.blueprint.layout", None)
    found = layout_of(config, file)
    monkeypatch.undo()
    assert found == layout(config)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"fingerprint": 3}', "half of a fi"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: str) -> None:
    config, file = run_config(), tmp_path / "layout.json"
    file.write_text(damage)
    assert layout_of(config, file) == layout(config)
    assert json.loads(file.read_text())["fingerprint"] == config.fingerprint


def test_another_configuration_has_another_layout(tmp_path: Path) -> None:
    file = tmp_path / "layout.json"
    layout_of(run_config(), file)
    longer = run_config(num_hidden_layers=7)
    assert layout_of(longer, file) == layout(longer)


def test_a_scheduler_starts_without_transformers() -> None:
    code = "import sys, scheduler.opening, scheduler.node; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
