"""From what members can bring to the state the run goes on from. Pure.

A step is committed when its leader has written it down, which it does only when every member of every group holds the
step's average. So the newest state that the ledger or any member calls committed is taken if every layer of it can be
brought together; and one more, if every group still holds the average of one and the same round: the leader that is
gone may have committed it. Where a group's state is lost with all of its members, older states are tried, down to the
newest checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from swarm.model.spans import ENDS, Span
from swarm.plan import Plan
from swarm.wire.messages import Holding, RoundKey

NO_ROUND = RoundKey(0, 0)
Holdings = Mapping[str, tuple[Holding, ...]]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a scheduler's own log says.

    Attributes:
        num_steps: committed.
        keys: by step, the round that was committed; steps that are missing are not checked.
        grad_norm: of the last of them.
    """

    num_steps: int = 0
    keys: Mapping[int, RoundKey] | None = None
    grad_norm: float = 0.0

    def key_of(self, num_steps: int) -> RoundKey | None:
        """The round that led to a state, if the log has it."""
        return None if self.keys is None else self.keys.get(num_steps - 1)


@dataclass(frozen=True, slots=True)
class State:
    """Where the run goes on.

    Attributes:
        num_steps: that its weights have seen.
        key: the round that led there.
        grad_norm: of the whole model in the last step, for members that have not applied it; 0 where nobody needs it.
        holders: who can bring it, by peer: of which spans.
    """

    num_steps: int
    key: RoundKey = NO_ROUND
    grad_norm: float = 0.0
    holders: Mapping[str, frozenset[Span]] | None = None

    def spans_of(self, peer: str) -> frozenset[Span]:
        """What a peer can bring."""
        return (self.holders or {}).get(peer, frozenset())


def newest_state(holdings: Holdings, ledger: Ledger, trunk: Span, checkpoint_steps: int | None) -> State:
    """The newest state of which every layer, and the ends, can be brought together.

    Args:
        holdings: by peer.
        ledger: the scheduler's own.
        trunk: all layers that are not the owners'.
        checkpoint_steps: number of steps of the scheduler's newest checkpoint.

    Returns:
        A state; that after no step, which needs nobody, where there is no other.
    """
    known = [(peer, held) for peer, each in holdings.items() for held in each if _is_of(ledger, held)]
    newest = max([ledger.num_steps, *(held.committed_steps for _, held in known)])
    for num_steps in range(newest + 1, 0, -1):
        found = _state(known, ledger, trunk, num_steps, must_be_whole=num_steps > newest)
        if found is not None:
            return found
        if num_steps == checkpoint_steps:
            return State(num_steps, ledger.key_of(num_steps) or NO_ROUND)
    return State(0)


def plan_as_before(plan: Plan, state: State, number: int) -> Plan | None:
    """The same plan for those of its members who can go on from a state at once.

    Args:
        plan: of the leader before.
        number: of the new plan.

    Returns:
        The plan; None where a group has nobody who can.
    """
    able = {
        peer for group, peers in enumerate(plan.groups) for peer in peers if plan.span_of(group) in state.spans_of(peer)
    }
    gone = frozenset(peer for peers in plan.groups for peer in peers) - able
    found = plan.without(gone, state.num_steps)
    return found.numbered(number) if all(found.groups) else None


def _is_of(ledger: Ledger, held: Holding) -> bool:
    """Whether a member's newest committed step is the one that the ledger has."""
    key = ledger.key_of(held.committed_steps)
    return key is None or held.committed_key in (key, NO_ROUND)


def _state(
    known: list[tuple[str, Holding]], ledger: Ledger, trunk: Span, num_steps: int, *, must_be_whole: bool
) -> State | None:
    """That after so many steps, if it can be brought together; `must_be_whole`: nobody knows that it was committed."""
    for key in _keys(known, ledger, num_steps):
        able = [(peer, held) for peer, held in known if _can_bring(held, num_steps, key)]
        if not _covers(able, trunk):
            continue
        grad_norm = _norm_of_all(able, trunk) if must_be_whole else _norm_once_known(able, ledger, num_steps)
        if grad_norm is None:
            continue
        holders: dict[str, frozenset[Span]] = {}
        for peer, held in able:
            holders[peer] = holders.get(peer, frozenset()) | {_span(held)}
        return State(num_steps, key, grad_norm, holders)
    return None


def _keys(known: list[tuple[str, Holding]], ledger: Ledger, num_steps: int) -> Iterator[RoundKey]:
    """Rounds that may have led to a state, the likeliest first."""
    logged = ledger.key_of(num_steps)
    if logged is not None:
        yield logged
        return
    committed = {held.committed_key for _, held in known if held.committed_steps == num_steps} - {NO_ROUND}
    averaged = {held.last_key for _, held in known if held.last_steps == num_steps} - {NO_ROUND}
    yield from sorted(committed, reverse=True)
    yield from sorted(averaged - committed, reverse=True)
    if not committed | averaged:
        yield NO_ROUND


def _can_bring(held: Holding, num_steps: int, key: RoundKey) -> bool:
    if not held.first_steps <= num_steps <= held.last_steps:
        return False
    if num_steps > held.committed_steps:
        return held.last_key == key
    return num_steps < held.committed_steps or NO_ROUND in (key, held.committed_key) or held.committed_key == key


def _covers(able: list[tuple[str, Holding]], trunk: Span) -> bool:
    spans = {_span(held) for _, held in able}
    layers = {layer for span in spans for layer in range(*span)}
    return ENDS in spans and layers >= set(range(*trunk))


def _norm_of_all(able: list[tuple[str, Holding]], trunk: Span) -> float | None:
    """The whole gradient's norm from one member of every group, as the leader computes it; None where spans overlap."""
    squares = {_span(held): held.square_norm for _, held in able}
    trunk_layers = [layer for span in squares for layer in range(*span)]
    if len(trunk_layers) != trunk[1] - trunk[0]:
        return None
    return math.sqrt(sum(sorted(squares.values())))


def _norm_once_known(able: list[tuple[str, Holding]], ledger: Ledger, num_steps: int) -> float | None:
    """As it was committed; 0 where every member has applied the step, None where one has not and nobody knows it."""
    if num_steps == ledger.num_steps:
        return ledger.grad_norm
    for _, held in able:
        if held.committed_steps == num_steps and held.grad_norm:
            return held.grad_norm
    return None if any(held.committed_steps < num_steps for _, held in able) else 0.0


def _span(held: Holding) -> Span:
    return held.first_layer, held.last_layer
