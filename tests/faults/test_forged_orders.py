"""Row 20: plans, commits and claims that are forged, replayed, older or absurd are ignored, counted and logged."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from types import SimpleNamespace
from typing import Any

import pytest

from peers.allegiance import Allegiance, Answer
from peers.attendance import Attending
from peers.peer import Peer
from swarm.admission import Invite, read_invite, seal, write_invite
from swarm.errors import InviteInvalid, MemberPaused, StartedAnew
from swarm.identity import Identity
from swarm.model.blueprint import layout
from swarm.net.channel import Delivery
from swarm.plan import Plan
from swarm.wire import codec
from swarm.wire.messages import AssignPlan, MayLeave, Orders, RunFinished
from tests.support import plans
from tests.support.tiny_models import run_config

CONFIG = run_config()
LEADER = Identity.generate()


class Sworn:
    """The part of a peer that plans and orders go through, under `LEADER` in term 3."""

    def __init__(self) -> None:
        self.adopted: list[Plan] = []
        self.peer: Any = object.__new__(Peer)
        self.peer.ignored = 0
        self.peer.attending = Attending()
        self.peer.joined = SimpleNamespace(config=CONFIG)
        self.peer.layout = layout(CONFIG)
        self.peer.say = lambda line: None
        self.peer.assignment = SimpleNamespace(newest_plan=None, adopt=self._adopt)
        self.peer._oath = SimpleNamespace(allegiance=Allegiance(3, LEADER.peer_id))
        self.peer._orders = asyncio.Queue()

    async def _adopt(self, plan: Plan) -> None:
        self.adopted.append(plan)
        self.peer.assignment.newest_plan = plan

    def hear(self, *orders: object) -> None:
        """Orders of the leader, then its farewell."""

        async def body() -> None:
            for order in (*orders, RunFinished(term=3, problem="")):
                self.peer._orders.put_nowait((LEADER.peer_id, order))
            await self.peer._obey()

        asyncio.run(body())


def whole_plan(number: int = 5) -> Plan:
    found = dataclasses.replace(plans.plan(["a"], ["b"], ["c"]), fingerprint=CONFIG.fingerprint, number=number)
    trunk = layout(CONFIG).trunk
    assert (found.stages[0].first_layer, found.stages[-1].last_layer) == (trunk.first, trunk.last)
    return found


def order(plan: Plan, signer: Identity = LEADER) -> AssignPlan:
    return AssignPlan(term=3, sealed=seal(signer, plan))


def forged() -> AssignPlan:
    sealed = bytearray(seal(LEADER, whole_plan(6)))
    sealed[len(sealed) // 2] ^= 1
    return AssignPlan(term=3, sealed=bytes(sealed))


BAD_PLANS = {
    "forged": forged(),
    "signed by another": order(whole_plan(6), Identity.generate()),
    "no plan": AssignPlan(term=3, sealed=codec.encode(RunFinished(term=3, problem=""))),
    "replayed": order(whole_plan(5)),
    "older": order(whole_plan(4)),
    "of another run": order(dataclasses.replace(whole_plan(6), fingerprint="0" * 64)),
    "of another model": order(dataclasses.replace(plans.plan(["a"]), fingerprint=CONFIG.fingerprint, number=6)),
    "of an older term": dataclasses.replace(order(whole_plan(6)), term=2),
}


@pytest.mark.parametrize("kind", BAD_PLANS)
def test_a_bad_plan_is_ignored_counted_and_logged(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Row 20: the peer goes on with the plan it has, and takes the next good one."""
    sworn = Sworn()
    with caplog.at_level(logging.WARNING):
        sworn.hear(order(whole_plan(5)), BAD_PLANS[kind], order(whole_plan(7)))
    assert [plan.number for plan in sworn.adopted] == [5, 7]
    assert sworn.peer.ignored == 1
    assert caplog.text.count("ignored: ") == 1


@pytest.mark.parametrize(("is_paused", "refusal"), [(False, StartedAnew), (True, MemberPaused)])
def test_a_peer_that_was_started_anew_or_is_paused_takes_no_orders(is_paused: bool, refusal: type[Exception]) -> None:
    """Row 1: it kept whom it obeys, but not what it was told; only that the run is over it can be told at once."""
    sworn = Sworn()
    sworn.peer.outbox = None
    if is_paused:
        sworn.peer.attending.pause("people", "lunch")
        sworn.peer.attending.let_go()

    def tell(*orders: object) -> object:
        items = Orders(items=tuple(codec.encode(order) for order in orders))
        return asyncio.run(sworn.peer._on_orders(Delivery(items, b"", LEADER.peer_id, ("scheduler",), lambda: None)))

    for orders in ([], [order(whole_plan(5))]):
        with pytest.raises(refusal):
            tell(*orders)
    assert sworn.peer._orders.empty()
    tell(RunFinished(term=3, problem=""))
    assert not sworn.peer._orders.empty()


def test_nobody_lets_a_peer_go_that_did_not_ask_for_it() -> None:
    """Neither its leader nor a forger who knows what the peer says to itself."""
    sworn = Sworn()
    sworn.hear(MayLeave(term=3), MayLeave(term=0), order(whole_plan(5)))
    assert [plan.number for plan in sworn.adopted] == [5]
    assert sworn.peer.ignored == 1


def test_an_absurd_plan_cannot_be_written_down() -> None:
    """Row 20: neither nothing, nor a host twice, nor weights that are none."""
    with pytest.raises(ValueError, match="an empty plan"):
        plans.plan()
    with pytest.raises(ValueError, match="a host has two stages"):
        plans.plan(["a"], ["a"])
    for weight in (-1.0, 0.0, float("nan"), 1e30):
        with pytest.raises(ValueError, match="weights or fractions are"):
            plans.plan(["a"], weights=[[weight]])


@pytest.mark.parametrize("term", [2, 3])
def test_a_claim_of_a_term_that_is_taken_is_denied(term: int) -> None:
    """Row 20: a replayed or older claim by another scheduler changes nothing, a hundred times."""
    allegiance = Allegiance(3, LEADER.peer_id)
    for _ in range(100):
        assert allegiance.answer("another", term, knows_plan=True) is Answer.DENY
    assert allegiance == Allegiance(3, LEADER.peer_id)


def test_no_changed_invite_is_read() -> None:
    """Rows 14 and 20: a mistyped or forged invite; one changed, lost or doubled character is enough."""
    admin = Identity.generate()
    invite = Invite(
        run_name="r",
        fingerprint=CONFIG.fingerprint,
        admin_public_key=admin.public_key,
        roles=("host",),
        uses=1,
        expires_at_s=time.time() + 99,
        nonce=b"n",
        bootstrap=(),
    )
    text = write_invite(admin, invite)
    assert read_invite(text, time.time()) == invite
    dice = random.Random(20)
    for _ in range(300):
        place = dice.randrange(len(text))
        typed = dice.choice(["", text[place] * 2, "A" if text[place] != "A" else "B"])
        with pytest.raises(InviteInvalid):
            read_invite(text[:place] + typed + text[place + 1 :], time.time())
    with pytest.raises(InviteInvalid):
        read_invite(write_invite(Identity.generate(), invite), time.time())
