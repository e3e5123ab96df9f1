"""What the members of an all-reduce agree on beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from swarm.errors import ProtocolError


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundPlan:
    """One round, as the leader states it; the same on every member.

    Raises:
        ProtocolError: a round that nobody may take part in.
    """

    round_id: bytes
    """Never used before: what fences this round from all others."""
    members: tuple[str, ...]
    """Base58 peer ids, in the same order everywhere."""
    weights: tuple[float, ...]
    """Of each member, from the ledger (tokens); 0 for one that counted nothing."""
    fractions: tuple[float, ...]
    """Which share of the values each member reduces, in any unit; equal, or by uplink."""
    codec: str = "fp32"
    """Parts and averages on the wire: `fp32` or `fp16`."""
    sender_timeout_s: float = 30.0
    """Between two parts of a sender, and until its first."""
    reducer_timeout_s: float = 60.0
    """Between two averages of a reducer, and from `prepare` to `go`."""

    def __post_init__(self) -> None:
        size = len(self.members)
        _require(size > 0 and len(set(self.members)) == size, f"a round of {size} members, not all distinct")
        _require(len(self.weights) == len(self.fractions) == size, "a round with a member without weight or fraction")
        _require(all(map(math.isfinite, self.weights + self.fractions)), "a round with a weight that is not finite")
        _require(min(self.weights) >= 0 < math.fsum(self.weights), f"a round with the weights {self.weights}")
        _require(min(self.fractions) > 0, f"a round with the fractions {self.fractions}")
        _require(self.codec in ("fp32", "fp16"), f"a round in the codec {self.codec!r}")
        _require(bool(self.round_id), "a round without an id")
        _require(
            0 < self.sender_timeout_s < self.reducer_timeout_s,
            f"a round with {self.sender_timeout_s} s for senders and {self.reducer_timeout_s} s for reducers, not more",
        )


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ProtocolError(problem, "make a new plan of the round")
