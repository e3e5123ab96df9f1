"""Showing an invite to the schedulers it names."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.admission import Invite
from swarm.config import RunConfig
from swarm.errors import InviteInvalid, NetworkError, RunMismatch
from swarm.net.endpoint import Endpoint
from swarm.wire.messages import Admit, Admitted


@dataclass(frozen=True, slots=True)
class Admission:
    """What an invite turned into.

    Attributes:
        certificate: sealed by the admin.
        tokenizer: a tokenizer.json, empty for bytes.
    """

    certificate: bytes
    config: RunConfig
    tokenizer: bytes


async def admitted(invite: Invite, text: str, endpoint: Endpoint) -> Admission:
    """Ask one scheduler after the other.

    Args:
        invite: and the text it was read from.

    Raises:
        NetworkError: none of them can be reached.
        RunMismatch: the scheduler's run is not the invite's.
        InviteInvalid: the invite names nobody who admits.
    """
    problem: NetworkError | None = None
    for address in invite.bootstrap:
        scheduler = address.rpartition("/p2p/")[2]
        try:
            reply, tokenizer = await endpoint.request(scheduler, Admit(invite=text))
        except NetworkError as error:
            problem = error
            continue
        if not isinstance(reply, Admitted):
            continue
        config = RunConfig.from_json(reply.run_json)
        if config.fingerprint != invite.fingerprint:
            raise RunMismatch(
                f"the scheduler's run is {config.fingerprint[:12]}, the invite's {invite.fingerprint[:12]}",
                "ask the admin for a new invite",
            )
        return Admission(reply.certificate, config, tokenizer)
    if problem is not None:
        raise problem
    raise InviteInvalid("the invite names no scheduler that answers", "ask the run's admin for a new invite")
