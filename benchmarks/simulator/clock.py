"""Virtual time: what happens when, in a fixed order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Clock:
    """Calls functions at their times; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def after(self, delay_s: float, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function later."""
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._order), function, arguments))

    def step(self) -> bool:
        """Go on to the next call; False where there is none."""
        if not self._due:
            return False
        self.now_s, _, function, arguments = heapq.heappop(self._due)
        function(*arguments)
        return True
