"""The emulated network: packets take their time on every stretch, in the order in which they come to it."""

from __future__ import annotations

import heapq
import os

import pytest

from benchmarks.wan.emulator import emulated
from benchmarks.wan.wires import STRETCHES, Network, Packet, PeerLine, Way, Wires
from swarm.errors import ConfigError

PACKET_BYTES = 1250
"""A millisecond at 10 Mb/s."""


def arrivals(wires: Wires, packets: list[tuple[float, str, str]]) -> list[float | None]:
    """When each packet arrives, sent at its time; None where it is lost."""
    found: list[float | None] = [None] * len(packets)
    due = [(at_s, n, Packet(source, target, PACKET_BYTES)) for n, (at_s, source, target) in enumerate(packets)]
    heapq.heapify(due)
    while due:
        at_s, number, packet = heapq.heappop(due)
        if packet.stretch == STRETCHES:
            found[number] = at_s
            continue
        passed_s = wires.send(packet, at_s)
        if passed_s is not None:
            heapq.heappush(due, (passed_s, number, packet))
    return found


def network(default: Way | None = None, **lines: PeerLine) -> Network:
    return Network({name: lines.get(name, PeerLine()) for name in "abc"}, default=default or Way())


def test_a_line_carries_one_packet_after_the_other() -> None:
    wires = Wires(network(a=PeerLine(up_mbit=10)))
    assert arrivals(wires, [(0.0, "a", "b")] * 3) == pytest.approx([0.001, 0.002, 0.003])
    assert arrivals(wires, [(1.0, "b", "a"), (1.0, "a", "c")]) == pytest.approx([1.0, 1.001])


def test_a_delay_comes_on_top_and_does_not_take_the_line() -> None:
    wires = Wires(network(Way(delay_ms=50), a=PeerLine(up_mbit=10), b=PeerLine(down_mbit=10)))
    assert arrivals(wires, [(0.0, "a", "b")] * 2) == pytest.approx([0.052, 0.053])


def test_who_waits_at_its_own_line_does_not_hold_up_others_at_the_targets() -> None:
    """A packet takes the target's line when it comes to it, not when it was sent."""
    wires = Wires(network(a=PeerLine(up_mbit=1), c=PeerLine(down_mbit=10)))
    late, early = arrivals(wires, [(0.0, "a", "c"), (0.0, "b", "c")])
    assert (early, late) == pytest.approx((0.001, 0.011))


def test_a_full_queue_drops_and_a_way_of_its_own_limits() -> None:
    wires = Wires(network(Way(mbit=1)))
    found = arrivals(wires, [(0.0, "a", "b")] * 40)
    assert found.count(None) == wires.dropped > 0
    passed = [at_s for at_s in found if at_s is not None]
    assert passed == pytest.approx([0.01 * n for n in range(1, len(passed) + 1)])
    assert max(passed) == pytest.approx(0.2, abs=0.011)


def test_partitions_and_loss() -> None:
    islands = Network({name: PeerLine() for name in "abc"}, islands=(frozenset("ab"),))
    assert arrivals(Wires(islands), [(0.0, "a", "b"), (0.0, "a", "c"), (0.0, "c", "b")]) == [0.0, None, None]
    lossy = Wires(network(Way(loss=0.5)), seed=1)
    assert 400 < arrivals(lossy, [(0.0, "a", "b")] * 1000).count(None) < 600


def test_a_file_describes_a_network_and_is_checked() -> None:
    values = {
        "lines": {"a": {"up_mbit": 5}, "b": {}},
        "ways": [{"from": "a", "to": "b", "delay_ms": 30, "jitter_ms": 1}],
        "islands": [["a"]],
    }
    read = Network.from_json(values)
    assert Network.from_json(read.to_json()) == read
    assert read.way("b", "a").delay_ms == 30
    assert read.is_cut("a", "b")
    with pytest.raises(ConfigError, match="upmbit"):
        Network.from_json({"lines": {"a": {"upmbit": 5}}})


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_real_sockets_find_the_rate_and_the_delay() -> None:
    """Wide limits: how close it comes on a quiet machine is in every result of the benchmark."""
    with emulated(Network({"a": PeerLine(up_mbit=20), "b": PeerLine()}, default=Way(delay_ms=20))) as emulator:
        delay_ms, mbit = emulator.measured("a", "b", 20)
    assert delay_ms >= 20
    assert 10 <= mbit <= 20.5
