"""Which codec boundary tensors have on their way between two peers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.plan import Plan


@dataclass(frozen=True, slots=True)
class LinkCodecs:
    """The coarser one of what both lines take; the leader says it of each line in the plan.

    Args:
        allowed: in this run, the finest first.
        coarseness: peers whose lines do not take the finest, and the place in `allowed` of what they take.
    """

    allowed: Sequence[str]
    coarseness: Mapping[str, int]

    @classmethod
    def of(cls, allowed: Sequence[str], plan: Plan) -> LinkCodecs:
        """Those of a plan; what this run does not know is as coarse as can be."""
        last = len(allowed) - 1
        places = {codec: place for place, codec in enumerate(allowed)}
        return cls(allowed, {line.peer: places.get(line.codec, last) for line in plan.thin_lines})

    def between(self, one: str, other: str) -> str:
        """Of both directions."""
        return self.allowed[max(self.coarseness.get(one, 0), self.coarseness.get(other, 0))]
