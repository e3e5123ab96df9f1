"""A checkpoint as a folder that transformers loads, with or without the swarm installed."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import tokenizers
from transformers import PreTrainedTokenizerFast

from swarm.durable import publish, sync_folder
from swarm.errors import CheckpointError, TargetExists
from swarm.training.assemble import assemble
from swarm.training.checkpoint import CheckpointReader


def export(checkpoint: Path, target: Path) -> None:
    """Write config.json, weights and tokenizer for `AutoModelForCausalLM` and `AutoTokenizer`.

    Args:
        checkpoint: a checkpoint's folder.
        target: a folder that is absent or empty; it appears complete or not at all.

    Raises:
        CheckpointMissing: no checkpoint there.
        CheckpointCorrupt: a damaged one.
        TargetExists: there is something at `target`.
        CheckpointError: the target cannot be written.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise TargetExists(f"{target} exists and is not an empty folder", "choose another folder")
    reader = CheckpointReader(checkpoint)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        _write(reader, partial)
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        sync_folder(partial)
        publish(partial, target)
    except OSError as error:
        raise CheckpointError(f"cannot write {target} ({error})", "free space or choose another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(reader: CheckpointReader, folder: Path) -> None:
    assemble(reader).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(reader.tokenizer_json()),
        model_max_length=reader.config.data.context_tokens,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
