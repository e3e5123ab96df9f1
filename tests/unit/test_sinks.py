"""Figures of a run's ledger, in TensorBoard's files and in what W&B is told."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scheduler.audit_log import AuditLog
from scheduler.new_run import create
from scheduler.run_dir import RunDir
from swarm.cli import main
from swarm.client import Run
from swarm.errors import ConfigError, TargetExists
from swarm.sinks import WandB, opened, pour
from swarm.toml_text import to_toml
from tests.support.runs import TINY_MODEL

STEPS = 3


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Finished, with the ledger of three steps, of which the last one is the first of its term."""
    config = tmp_path / "config.toml"
    config.write_text(
        to_toml({"model": TINY_MODEL, "data": {"context_tokens": 32}, "schedule": {"steps": STEPS}}, {}),
        encoding="utf-8",
    )
    create(tmp_path / "run", "test", config, None)
    folder = RunDir(tmp_path / "run")
    values = folder.load_config()
    AuditLog(folder.audit, values.fingerprint, values.to_json()).close()
    with sqlite3.connect(folder.audit) as connection:
        connection.create_function("add_row", -1, lambda total, *row: total)
        for step, term in enumerate((1, 1, 2)):
            row = (step, term, 1, 0, 100, 300.0 - 50 * step, 0.5, 1000.0 + 2 * step)
            connection.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()
    return Run(folder.root)


def test_tensorboard_shows_every_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["swarm", "sink", str(run.folder), "--tensorboard", str(tmp_path / "board")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert [(each.step, each.wall_time) for each in board.Tensors("train/loss")] == [(1, 1000), (2, 1002), (3, 1004)]
    losses = [each.tensor_proto.float_val[0] for each in board.Tensors("train/loss")]
    assert losses == pytest.approx([3.0, 2.5, 2.0])
    assert [each.step for each in board.Tensors("swarm/tokens_per_s")] == [2], "of other steps it is not known"
    with pytest.raises(TargetExists), opened(run, tmp_path / "board", ""):
        pass


def test_wandb_is_told_every_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Fake(ModuleType):
        def init(self, **options: Any) -> Fake:
            told.append(options)
            return self

        def log(self, figures: dict[str, float], step: int) -> None:
            told.append((step, figures["train/loss"]))

        def finish(self) -> None:
            told.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", Fake("wandb"))
    with opened(run, None, "papers") as sinks:
        assert len(list(pour(run, sinks))) == STEPS
    assert told[0]["project"] == "papers"
    assert told[0]["config"]["schedule"]["steps"] == STEPS
    assert told[1:] == [(1, 3.0), (2, 2.5), (3, 2.0), "finished"]


def test_what_is_missing_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        WandB("papers", run.config)
    with pytest.raises(ConfigError, match="no sink"), opened(run, None, ""):
        pass
