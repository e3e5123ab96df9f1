"""Texts for benchmarks: made of a seed, so that none needs a download."""

from __future__ import annotations

import random
import string
from pathlib import Path

from swarm.errors import ShardUnreadable

_WORDS_A_LINE = 12


def random_text(seed: int, num_characters: int) -> str:
    """Words of random letters: no stretch of it is found anywhere by accident.

    Args:
        seed: another one gives another text.
        num_characters: of the text, all of them ASCII.
    """
    source = random.Random(seed)
    lines: list[str] = []
    length = 0
    while length < num_characters:
        words = ("".join(source.choices(string.ascii_letters, k=source.randint(3, 9))) for _ in range(_WORDS_A_LINE))
        lines.append(" ".join(words) + ".\n")
        length += len(lines[-1])
    return "".join(lines)[:num_characters]


def read_text(corpus: Path) -> str:
    """A text that a user names; raises ShardUnreadable where there is none."""
    try:
        return corpus.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ShardUnreadable(f"cannot read the corpus {corpus} ({error})", "give --corpus a UTF-8 text file") from None


def write_random_shards(folder: Path, seed: int, num_shards: int, num_characters: int) -> list[Path]:
    """One file of `random_text` a shard, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number in range(num_shards):
        shards.append(folder / f"shard-{number}.txt")
        shards[-1].write_text(random_text(seed * 1000 + number, num_characters), encoding="utf-8")
    return shards
