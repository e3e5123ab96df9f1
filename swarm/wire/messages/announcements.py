"""What a scheduler tells everybody who holds an invite; each travels sealed by the scheduler, with its certificate."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.codec import message


@message(102)
@dataclass(frozen=True, slots=True, kw_only=True)
class RunAnnounced:
    """Where a run is now: on the LAN, and as the answer of a scheduler's signpost.

    Attributes:
        sent_at_s: since 1970, as in the others.
        bootstrap: multiaddresses of the scheduler.
        monitor: multiaddresses where its announcements are gossiped; none where nobody can watch.
    """

    certificate: bytes
    sent_at_s: float
    bootstrap: tuple[str, ...]
    monitor: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAnnounced:
    """A stage of the plan: layers from the first to before the last, and its hosts."""

    first_layer: int
    last_layer: int
    hosts: tuple[str, ...]


@message(103)
@dataclass(frozen=True, slots=True, kw_only=True)
class PlanAnnounced:
    """The plan that holds; said when it changes, and again every few seconds for whoever came late.

    Attributes:
        bound_tokens_per_s: 0 where none is known.
        gap: share of the bound that the plan may be missing.
    """

    certificate: bytes
    term: int
    sent_at_s: float
    number: int
    stages: tuple[StageAnnounced, ...]
    owners: tuple[str, ...]
    predicted_tokens_per_s: float
    bound_tokens_per_s: float
    gap: float


@message(104)
@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsAnnounced:
    """How the run goes, once a second.

    Attributes:
        loss: of the last step, a token; none before the first.
        step_age_s: since the last commit.
        waiting_for: peers that the step waits for.
        alerts: what an admin should look at.
    """

    certificate: bytes
    term: int
    sent_at_s: float
    run: str
    phase: str
    step: int
    steps: int
    tokens: int
    loss: tuple[float, ...]
    tokens_per_s: float
    eta_s: float
    step_age_s: float
    plan: int
    num_hosts: int
    num_owners: int
    waiting_for: tuple[str, ...]
    alerts: tuple[str, ...]
