"""Making a run: its folder, its commented run.toml, the admin's key."""

from __future__ import annotations

import dataclasses
import shutil
import tomllib
from pathlib import Path
from typing import Any

from scheduler.run_dir import RunDir
from swarm.config import RunConfig, build, read_toml
from swarm.errors import ConfigError, TargetExists
from swarm.identity import Identity
from swarm.model.presets import byte_llama
from swarm.toml_text import to_toml

DEFAULT_MODEL = byte_llama(num_layers=6, width=128, num_heads=4, mlp_width=352, context_tokens=256)


def create(run_dir: Path, name: str, config: Path | None, tokenizer: Path | None) -> RunConfig:
    """Make the folder of a new run; nothing is left behind where anything is wrong.

    Args:
        run_dir: must not exist, or be empty.
        config: a run.toml to start from; its name and admin key are replaced.
        tokenizer: the consortium's tokenizer.json.

    Raises:
        TargetExists: the folder is in use.
        ConfigError: the given run.toml or tokenizer is wrong.
    """
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise TargetExists(f"{run_dir} is not an empty folder", "choose a new one")
    values: dict[str, Any] = {"model": DEFAULT_MODEL} if config is None else read_toml(config)
    admin = Identity.generate()
    values = {"name": name, "admin_public_key": admin.public_key} | {
        key: value for key, value in values.items() if key not in ("name", "admin_public_key")
    }
    if tokenizer is not None:
        values["data"] = dict(values.get("data", {})) | {"tokenizer": _identify(tokenizer)}
    run = build(RunConfig, values, "run.toml")
    _check(run, tokenizer)
    text = to_toml(dataclasses.asdict(run), _COMMENTS)
    assert RunConfig.from_json(run.to_json()) == build(RunConfig, tomllib.loads(text), "run.toml")
    folder = RunDir(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        admin.save(folder.admin_key)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, folder.tokenizer)
        folder.config.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {run_dir} ({error.strerror})", "choose another folder") from None
    return run


def _identify(tokenizer: Path) -> str:
    from swarm.data.tokenizer import identify

    try:
        return identify(tokenizer.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the tokenizer {tokenizer} ({error})", "check the path") from None


def _check(run: RunConfig, tokenizer: Path | None) -> None:
    """Find out now what peers would find out later: a model that cannot be built, a tokenizer that does not fit."""
    from swarm.data.tokenizer import load_tokenizer
    from swarm.model.blueprint import layout

    layout(run)
    load_tokenizer(run, tokenizer)


_COMMENTS = {
    "": "The run's configuration: the same for every peer, part of every invite. Never change it once peers joined.",
    "ends": "What data owners compute themselves, next to their text.",
    "data": "How text becomes training windows.",
    "batch": "microbatch_sequences windows a microbatch; global_batch_microbatches a step, over all owners.",
    "optimizer": "adamw or sgd, linear warm-up, then a cosine.",
    "numerics": "precision fp32, bf16; boundary_codec fp32, bf16, int8, int4, spectral, auto; gradient_codec fp32,"
    " fp16.",
    "schedule": "How long the run is, and how often a checkpoint is kept.",
    "model": "Any decoder that transformers builds from a configuration with these keys.",
}
