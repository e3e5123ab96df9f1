"""`swarm demo`: a scheduler, two data owners and four hosts train a model of Python source on this machine."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from swarm.durable import replacing
from swarm.errors import ShardEmpty, ShardUnreadable
from swarm.local.fleet import Fleet, Program
from swarm.model.presets import byte_llama

NUM_OWNERS = 2
NUM_HOSTS = 4
NUM_STAGES = 2
DEFAULT_STEPS = 200
_RUN_S = 1800.0
_MAX_CORPUS_BYTES = 16 << 20
_SAMPLE_TOKENS = 200

MODEL = byte_llama(num_layers=6, width=128, num_heads=4, mlp_width=352, context_tokens=128)


def run_values(steps: int) -> dict[str, Any]:
    """The demo's run.toml as values."""
    return {
        "name": "demo",
        "model": MODEL,
        "data": {"context_tokens": 128},
        "batch": {"microbatch_sequences": 4, "global_batch_microbatches": 8},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": min(20, steps)},
        "schedule": {"steps": steps, "checkpoint_every_steps": max(1, steps // 2)},
    }


@dataclass(frozen=True, slots=True)
class DemoFigures:
    """What the demo measured."""

    steps: int
    first_loss: float
    last_loss: float
    tokens_per_s: float
    hosts: int
    owners: int
    seconds: float
    export_dir: str
    sample: str


def standard_library() -> list[Path]:
    """Python's own sources, without what was installed beside them."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts and "test" not in path.parts)


def split_corpus(corpus: Path | None, folder: Path) -> list[Path]:
    """Two text files, one an owner: every second source goes to the second owner.

    Args:
        corpus: a text file or a folder of them; the standard library without it.
        folder: the files are written here.

    Raises:
        ShardUnreadable: the corpus cannot be read.
        ShardEmpty: it holds no text.
    """
    texts = _texts(corpus)
    if not any(texts):
        raise ShardEmpty(f"the corpus {corpus} holds no text", "give --corpus a file or folder with text")
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for owner in range(NUM_OWNERS):
        path = folder / f"owner-{owner}.txt"
        share = texts[owner::NUM_OWNERS] if len(texts) > 1 else [_half(texts[0], owner)]
        path.write_text("\n".join(share)[: _MAX_CORPUS_BYTES // NUM_OWNERS], encoding="utf-8")
        shards.append(path)
    return shards


def _texts(corpus: Path | None) -> list[str]:
    if corpus is None:
        files = standard_library()
    elif corpus.is_dir():
        files = sorted(path for path in corpus.rglob("*") if path.is_file())
    else:
        files = [corpus]
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            if len(files) == 1:
                raise ShardUnreadable(f"{file} is not UTF-8 text", "give --corpus text") from None
        except OSError as error:
            raise ShardUnreadable(f"cannot read {file} ({error})", "check --corpus") from None
    return texts


def _half(text: str, owner: int) -> str:
    middle = len(text) // NUM_OWNERS
    return text[middle * owner : middle * (owner + 1)]


def run_demo(folder: Path, corpus: Path | None, steps: int, tell: Callable[[dict[str, Any]], None]) -> DemoFigures:
    """Train, export, and sample from the export; every stage of it in processes of their own.

    The dashboard goes along where its libraries are installed.

    Args:
        folder: new; everything the demo writes lies in it.
        tell: shows the scheduler's events.

    Raises:
        RunError: a process ended too early, with its last words.
    """
    shards = split_corpus(corpus, folder / "corpus")
    options = {"scheduler": ("--dashboard", "0")} if find_spec("nicegui") else {}
    with Fleet(folder, run_values(steps), shards, NUM_HOSTS, NUM_STAGES, options=options) as fleet:
        events = _watch(fleet.scheduler, tell)
        checkpoint = Path(events[-1]["checkpoint"])
    taken = [event for event in events if event["event"] == "step"]
    export_dir = folder / "export"
    _finish(Program("export", ["export", str(checkpoint), str(export_dir)], folder / "logs"))
    sample = ["generate", str(export_dir), "--prompt", "def ", "--tokens", str(_SAMPLE_TOKENS), "--json"]
    text = _finish(Program("generate", sample, folder / "logs"))[-1]["text"]
    seconds = taken[-1]["elapsed_s"]
    return DemoFigures(
        steps=taken[-1]["step"],
        first_loss=taken[0]["loss"],
        last_loss=taken[-1]["loss"],
        tokens_per_s=sum(event["tokens"] for event in taken) / seconds,
        hosts=NUM_HOSTS,
        owners=NUM_OWNERS,
        seconds=seconds,
        export_dir=str(export_dir),
        sample=text,
    )


def _watch(scheduler: Program, tell: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Pass on the scheduler's events until the run is finished; returns all of them."""
    shown = 0

    def show(event: dict[str, Any]) -> bool:
        nonlocal shown
        shown += 1
        tell(event)
        return str(event["event"]) == "finished"

    scheduler.wait_until(show, "'finished'", _RUN_S)
    return scheduler.events[:shown]


def _finish(program: Program) -> list[dict[str, Any]]:
    program.expect_success()
    return program.events


def write_figures(figures: DemoFigures, path: Path) -> None:
    """The figures as one JSON object."""
    with replacing(path) as file:
        file.write(json.dumps(asdict(figures), indent=2).encode())
