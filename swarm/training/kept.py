"""What was computed for counted microbatches, kept in host memory until their step is over, within a budget.

When a neighbour dies, the others need not compute again what they have: they answer a replay from here, and only the
stage that was lost is computed anew.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from swarm.wire.messages import Lease

T = TypeVar("T")
Key = tuple[int, Lease]
"""A microbatch of a step."""


class Kept(Generic[T]):
    """Values by microbatch.

    Args:
        budget_bytes: of host memory; what does not fit is not kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._free_bytes = budget_bytes
        self._values: dict[Key, tuple[T, int]] = {}

    def put(self, key: Key, value: T, num_bytes: int) -> bool:
        """Keep a value in place of an earlier one; False where there is no room for it."""
        self.pop(key)
        if num_bytes > self._free_bytes:
            return False
        self._free_bytes -= num_bytes
        self._values[key] = value, num_bytes
        return True

    def get(self, key: Key) -> T | None:
        """What is kept of a microbatch."""
        return self._values[key][0] if key in self._values else None

    def pop(self, key: Key) -> T | None:
        """What was kept of a microbatch; it is kept no longer."""
        value, num_bytes = self._values.pop(key, (None, 0))
        self._free_bytes += num_bytes
        return value

    def forget(self, step: int) -> None:
        """A step is over, or begins anew."""
        for key in [key for key in self._values if key[0] == step]:
            self.pop(key)
