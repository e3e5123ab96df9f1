"""Whose word an announcement is: sealed by a scheduler that shows the admin's certificate. Pure."""

from __future__ import annotations

from swarm.admission import Membership, unseal
from swarm.errors import AdmissionError, ProtocolError
from swarm.wire.messages import MetricsAnnounced, PlanAnnounced, RunAnnounced

MAX_BYTES = 1 << 19
"""Of an announcement: a plan of four thousand hosts by name fits."""

SIGNPOST = "/swarm/signpost"
"""Where a scheduler's daemon tells strangers about its announcements: a length, then a sealed `RunAnnounced`."""
LENGTH_BYTES = 4
"""Little endian."""

Announcement = RunAnnounced | PlanAnnounced | MetricsAnnounced


def announced(membership: Membership, data: bytes, now_s: float) -> tuple[Announcement, str] | None:
    """An announcement and its scheduler's peer id; None where it is forged.

    Args:
        membership: of the run, as the invite names it.
        now_s: since 1970.
    """
    if len(data) > MAX_BYTES:
        return None
    try:
        body, signer = unseal(data, object)
        if not isinstance(body, Announcement):
            return None
        certificate = membership.check(body.certificate, signer, now_s)
    except (ProtocolError, AdmissionError):
        return None
    return (body, signer) if "scheduler" in certificate.roles else None
