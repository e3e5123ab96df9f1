"""An owner's private text as token ids: tokenised once into a memory-mapped file that a checksum protects.

The cache is `<key>.tokens`, little-endian ids, described by `<key>.json`, which is written last. The key names the
source files, their sizes and times, and the tokenizer, so that a changed shard is another cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from swarm.config import RunConfig
from swarm.data.sources import read_text, source_files
from swarm.data.tokenizer import TokenArray, Tokenizer, token_dtype
from swarm.durable import keeping, sha256_of, with_checksum, without_checksum
from swarm.errors import ShardEmpty, ShardTooSmall, ShardUnreadable

_log = logging.getLogger(__name__)

# Part of the key: a change of how text becomes tokens must not find old caches.
_FORMAT = 2


@dataclass(frozen=True, slots=True)
class _Description:
    num_tokens: int
    sha256: str
    skipped_files: int


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Token ids of one owner; they never leave its process."""

    train_tokens: TokenArray
    """[tokens], a read-only view of the file."""
    held_out_tokens: TokenArray
    """[tokens], the end of the shard, never trained on."""
    checksum: str
    """SHA-256 of all token ids as they lie in the file, hex."""
    skipped_files: int
    """Files of the folder that were not text."""

    def sampling_seed(self, run_seed: int) -> int:
        """Of this shard's order in this run, 64 bits: two owners never walk in step."""
        digest = hashlib.sha256(f"{run_seed}/{self.checksum}".encode()).digest()
        return int.from_bytes(digest[:8], "little")

    @classmethod
    def open(cls, config: RunConfig, path: Path, cache_dir: Path, tokenizer: Tokenizer) -> Shard:
        """Tokenise a shard, or map what an earlier process tokenised.

        Args:
            config: window, microbatch and held-out share.
            path: a text file, a folder, a .jsonl or a .parquet.
            cache_dir: made if it is missing.
            tokenizer: the run's, as `load_tokenizer` gives it.

        Raises:
            ShardUnreadable: nothing there, or not text; within a folder such files are skipped and counted.
            ShardEmpty: not one token.
            ShardTooSmall: less than one microbatch to train on.
        """
        files = source_files(path)
        cache_dir.mkdir(parents=True, exist_ok=True)
        stem = cache_dir / f"shard-{_key(files, tokenizer)}"
        described = _valid_description(stem, tokenizer)
        if described is None:
            described = _tokenise(files, stem, tokenizer, tolerant=path.is_dir())
        if described.num_tokens == 0:
            skipped = f"; {described.skipped_files} files in it are not text" if described.skipped_files else ""
            raise ShardEmpty(f"the shard {path} holds no text{skipped}", "give --data a file or folder with text")
        return cls._split(config, path, _map(stem, tokenizer), described)

    @classmethod
    def _split(cls, config: RunConfig, path: Path, tokens: TokenArray, described: _Description) -> Shard:
        num_held_out = int(len(tokens) * config.data.held_out_fraction)
        num_train = len(tokens) - num_held_out
        needed = config.microbatch_tokens + 1
        if num_train < needed:
            raise ShardTooSmall(
                f"the shard {path} has {num_train} tokens to train on, but one microbatch takes {needed}",
                "add text to it, or join with a larger shard",
            )
        return cls(
            train_tokens=tokens[:num_train],
            held_out_tokens=tokens[num_train:],
            checksum=described.sha256,
            skipped_files=described.skipped_files,
        )


def _key(files: Sequence[Path], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(f"{_FORMAT}\n{tokenizer.identity}\n".encode())
    for file in files:
        status = file.stat()
        digest.update(
            f"{file.resolve()}\x00{status.st_size}\x00{status.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:24]


def _valid_description(stem: Path, tokenizer: Tokenizer) -> _Description | None:
    """What the cache says it holds, if it holds exactly that."""
    tokens = stem.with_suffix(".tokens")
    try:
        text = without_checksum(stem.with_suffix(".json").read_bytes())
        described = _Description(**json.loads(text or b""))
        expected_bytes = described.num_tokens * token_dtype(tokenizer.vocab_size).itemsize
        if tokens.stat().st_size == expected_bytes and sha256_of(tokens) == described.sha256:
            return described
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        _log.warning("the tokenised shard %s is damaged and made again: %s", stem, error)
        return None
    _log.warning("the tokenised shard %s is damaged and made again", stem)
    return None


def _tokenise(files: Sequence[Path], stem: Path, tokenizer: Tokenizer, *, tolerant: bool) -> _Description:
    tokens = stem.with_suffix(".tokens")
    skipped_files = 0
    with keeping(tokens) as output:
        for file in files:
            start = output.tell()
            try:
                _append(output, file, tokenizer)
            except ShardUnreadable as error:
                if not tolerant:
                    raise
                _log.debug("skipped: %s", error.problem)
                skipped_files += 1
                output.seek(start)
                output.truncate()
        num_bytes = output.tell()
    if skipped_files:
        _log.warning("%d of %d files of the shard are not text and were skipped", skipped_files, len(files))
    itemsize = token_dtype(tokenizer.vocab_size).itemsize
    described = _Description(num_bytes // itemsize, sha256_of(tokens), skipped_files)
    with keeping(stem.with_suffix(".json")) as output:
        output.write(with_checksum(json.dumps(asdict(described)).encode()))
    return described


def _append(output: IO[bytes], file: Path, tokenizer: Tokenizer) -> None:
    try:
        for text in read_text(file):
            output.write(tokenizer.encode(text).tobytes())
    except UnicodeEncodeError as error:
        # JSON may escape half a surrogate pair, which no encoding can write.
        raise ShardUnreadable(f"{file} holds what is not Unicode ({error})", "correct it or take it out") from None


def _map(stem: Path, tokenizer: Tokenizer) -> TokenArray:
    return np.memmap(stem.with_suffix(".tokens"), dtype=token_dtype(tokenizer.vocab_size), mode="r")
