"""Text to token ids and back: single bytes by default, or the tokenizer.json that the consortium agreed on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tokenizers

from swarm.config import BYTE_TOKENIZER, RunConfig
from swarm.errors import ConfigError, TokenizerMismatch

TokenArray = npt.NDArray[np.unsignedinteger]
"""Token ids: uint16 where the vocabulary fits, uint32 otherwise."""

_ASK_THE_ADMIN = "ask the admin for the run's tokenizer.json and pass it with --tokenizer"


class Tokenizer(Protocol):
    """What a run needs of its tokenizer."""

    @property
    def identity(self) -> str:
        """As in `RunConfig.data.tokenizer`."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    def encode(self, text: str) -> TokenArray:
        """Token ids, [tokens], of `token_dtype`; no special tokens are added."""

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of [tokens] ids; what is not UTF-8 becomes U+FFFD."""

    def to_json(self) -> str:
        """A tokenizer.json, as the `tokenizers` library reads it, that gives the same ids."""


class ByteTokenizer:
    """Every byte of the text's UTF-8 is its own token: 256 of them."""

    identity = BYTE_TOKENIZER
    vocab_size = 256

    def encode(self, text: str) -> TokenArray:
        """See `Tokenizer.encode`."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(token_dtype(self.vocab_size))

    def decode(self, ids: npt.ArrayLike) -> str:
        """See `Tokenizer.decode`."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode("utf-8", errors="replace")

    def to_json(self) -> str:
        """A byte-level BPE whose vocabulary is the 256 bytes, in order, without a single merge."""
        vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
        built = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
        built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        built.decoder = tokenizers.decoders.ByteLevel()
        text: str = built.to_str()
        return text


class FileTokenizer:
    """A tokenizer.json.

    Args:
        text: its content.

    Raises:
        ConfigError: not a tokenizer that the `tokenizers` library reads.
    """

    def __init__(self, text: str) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise ConfigError(f"the tokenizer.json cannot be read ({error})", _ASK_THE_ADMIN) from None
        # A file may ask for these; shards are cut into windows later, and never padded.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._text = text
        self.identity = identify(text)
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, text: str) -> TokenArray:
        """See `Tokenizer.encode`."""
        return np.asarray(
            self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=token_dtype(self.vocab_size)
        )

    def decode(self, ids: npt.ArrayLike) -> str:
        """See `Tokenizer.decode`."""
        text: str = self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=False)
        return text

    def to_json(self) -> str:
        """The file as it was given."""
        return self._text


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The little-endian type that token ids below `vocab_size` are kept in."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def identify(text: str) -> str:
    """What `RunConfig.data.tokenizer` says of a tokenizer.json with this content."""
    return f"sha256:{hashlib.sha256(text.encode('utf-8')).hexdigest()}"


def load_tokenizer(config: RunConfig, path: Path | None) -> Tokenizer:
    """Load the run's tokenizer and check that it is the one.

    Args:
        config: says which tokenizer, and how many tokens the model knows.
        path: a tokenizer.json; None for bytes.

    Raises:
        TokenizerMismatch: another tokenizer than the run's, or more tokens than the model has.
        ConfigError: the file cannot be read, or the model has no vocab_size.
    """
    wanted = config.data.tokenizer
    tokenizer: Tokenizer = ByteTokenizer() if path is None else FileTokenizer(_read(path))
    if tokenizer.identity != wanted:
        remedy = "leave out --tokenizer" if wanted == BYTE_TOKENIZER else _ASK_THE_ADMIN
        raise TokenizerMismatch(f"the run's tokenizer is {wanted}, but this one is {tokenizer.identity}", remedy)
    vocab_size = config.model.get("vocab_size")
    if not isinstance(vocab_size, int):
        raise ConfigError("model has no vocab_size", f"set it to {tokenizer.vocab_size} or more")
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerMismatch(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model's vocab_size is {vocab_size}",
            f"set model.vocab_size to {tokenizer.vocab_size} or more",
        )
    return tokenizer


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the tokenizer {path} ({error})", _ASK_THE_ADMIN) from None


def _byte_characters() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies, by byte.

    Printable Latin-1 stands for itself; the other bytes, in order, for the characters from U+0100 on.
    """
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    own = {ord(character): character for character in alphabet if ord(character) < 256}
    others = iter(character for character in alphabet if ord(character) >= 256)
    return [own[byte] if byte in own else next(others) for byte in range(256)]
