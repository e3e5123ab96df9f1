"""Ways that do not work are passed over, ever longer, and no more as soon as they do."""

from __future__ import annotations

from peers.detours import Detours, ways_of
from peers.routes import Router
from peers.window import Window
from swarm.wire.messages import GrantLeases, Lease
from tests.support import plans

OWNER = "o"


def test_a_way_is_passed_over_for_twice_as_long_every_time() -> None:
    detours = Detours()
    (way, _) = ways_of(OWNER, ("a",))
    now_s, lengths = 0.0, []
    for _ in range(9):
        detours.failed([way, way], now_s)
        detours.failed([way], now_s + 1.0)  # of what was on its way already
        assert way in detours.avoided(now_s + 4.9)
        (until_s,) = detours._until_s.values()
        lengths.append(until_s - now_s)
        assert detours.avoided(until_s) == frozenset()
        now_s = until_s + 100.0
    assert lengths == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 320.0, 320.0]
    detours.failed([way], now_s)
    detours.worked([way])
    assert detours.avoided(now_s) == frozenset()


def test_peers_that_are_new_here_start_afresh() -> None:
    detours = Detours()
    detours.failed(ways_of(OWNER, ("a", "b")), 0.0)
    detours.forget({"b"})
    assert detours.avoided(1.0) == frozenset({frozenset((OWNER, "a"))})


def test_a_route_leads_around_a_broken_way_also_further_on() -> None:
    router = Router(plans.plan(["a", "b"], ["c", "d"], ["e", "f"]))
    broken = frozenset(map(frozenset, [("a", "c"), ("a", "d"), ("c", "e"), ("f", OWNER), ("b", "c")]))
    for _ in range(20):
        assert router.draw(owner=OWNER, broken=broken) == ("b", "d", "e")
    nothing_left = broken | {frozenset(("e", OWNER))}
    assert router.draw(owner=OWNER, broken=nothing_left) is not None, "better a way that may work than none"


def test_two_hosts_that_do_not_hear_each_other_are_not_neighbours_for_long() -> None:
    """Silence tells only that something on the route is wrong; others' work tells what is not."""
    plan = plans.plan(["a", "b"], ["c", "d"], owners=[OWNER])
    desk = Window(OWNER, plan, 0, 0)
    now_s, silent, done = 0.0, 0, 0
    for step in range(200):
        desk.grant(GrantLeases(term=1, plan=plan.number, step=step, leases=(Lease(0, 0), Lease(1, 0))))
        while admitted := desk.admit(now_s):
            now_s += 0.1
            for each in admitted:
                if each.route == ("a", "c"):
                    silent += 1
                    now_s += 8.0
                    desk.overdue(now_s, 7.9)
                else:
                    done += 1
                    desk.complete(each.work)
        desk.committed(step)
    assert done == 400
    assert 1 <= silent <= 6
