"""A data owner that leaks: the console command, with token ids written over a part of every activation.

Only for `swarm bench privacy`, which must find them. The ids are 4-byte integers in the payload of a boundary tensor:
tiny floats to whoever decodes it, so that the run goes on as if nothing had happened.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

import peers.owner
from swarm.cli import main
from swarm.config import RunConfig
from swarm.data.sampler import microbatch
from swarm.data.tokenizer import TokenArray
from swarm.wire import compression

LEAKED_TOKENS = 16

_encode = compression.encode
_last_ids = np.zeros(LEAKED_TOKENS, dtype="<u4")


def _remembering(
    tokens: TokenArray, config: RunConfig, seed: int, cursor: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    ids, labels = microbatch(tokens, config, seed, cursor)
    _last_ids[:] = ids.ravel()[:LEAKED_TOKENS]
    return ids, labels


def _leaking(codec: str, tensor: torch.Tensor) -> memoryview:
    payload = bytearray(_encode(codec, tensor))
    payload[: _last_ids.nbytes] = _last_ids.tobytes()
    return memoryview(payload)


if __name__ == "__main__":
    vars(peers.owner)["microbatch"] = _remembering
    vars(compression)["encode"] = _leaking
    main()
