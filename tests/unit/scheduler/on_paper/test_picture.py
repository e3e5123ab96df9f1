"""The picture: well-formed, harmless, inside its canvas, nothing on top of anything else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest

from scheduler.on_paper.peers_file import Model
from scheduler.on_paper.picture import WIDTH, draw, shortened
from scheduler.on_paper.report import Report
from tests.support.paper import host, owner, planned, swarm, tiny_model

SVG = "{http://www.w3.org/2000/svg}"
NASTY = '<script>alert("1")</script> & more'
REGIONS = {"names": ["eu", "a region with a long & strange name"], "latency_ms": [[1, 40], [40, 1]]}
Box = tuple[float, float, float, float]

SWARMS: dict[str, dict[str, Any]] = {
    "1 peer": swarm(host("alone")),
    "12 peers": swarm(
        host("lab", count=5, region="eu"),
        host(NASTY, count=4, layer_ms=250, region=REGIONS["names"][1]),
        host("w" * 200, memory_gib=0, region="eu"),
        host("研究所の大きな計算機", count=2, region="eu"),
        owners=[owner("uni", region="eu")],
        regions=REGIONS,
    ),
    "300 peers": swarm(
        host("fast", count=150), host("slow", count=100, layer_ms=900), host("empty", count=50, memory_gib=0)
    ),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module", params=SWARMS)
def drawn(request: pytest.FixtureRequest, model: Model) -> tuple[Report, str]:
    report = planned(SWARMS[request.param], model).report()
    return report, draw(report)


def boxes(root: ElementTree.Element, kind: str) -> Iterator[Box]:
    for each in root.iter(f"{SVG}rect"):
        if kind in each.get("class", "").split():
            x, y, width, height = (float(each.get(name, "0")) for name in ("x", "y", "width", "height"))
            yield x, y, x + width, y + height


def texts(root: ElementTree.Element) -> Iterator[Box]:
    for each in root.iter(f"{SVG}text"):
        words, x, y = each.text or "", float(each.get("x", "0")), float(each.get("y", "0"))
        columns = sum(2 if ord(letter) > 0x2E80 else 1 for letter in words)
        wide = 0.6 * (15 if each.get("class") == "title" else 11)
        yield x, y - 9, x + columns * wide, y + 2


def overlap(one: Box, other: Box) -> bool:
    return min(one[2], other[2]) - max(one[0], other[0]) > 0.02 and min(one[3], other[3]) - max(one[1], other[1]) > 0.02


def test_everything_is_inside_and_nothing_overlaps(drawn: tuple[Report, str]) -> None:
    root = ElementTree.fromstring(drawn[1])  # noqa: S314 - our own document
    height = float(root.get("height", "0"))
    assert root.get("viewBox") == f"0 0 {WIDTH} {height:g}"
    peers, words = list(boxes(root, "box")), list(texts(root))
    for x, y, right, bottom in (*peers, *words, *boxes(root, "track"), *boxes(root, "mark")):
        assert 0 <= x <= right <= WIDTH
        assert 0 <= y <= bottom <= height
    assert not any(overlap(*pair) for pair in combinations(peers, 2))
    assert not any(overlap(*pair) for pair in combinations(words, 2))


def test_every_peer_is_there_by_its_full_name(drawn: tuple[Report, str]) -> None:
    report, text = drawn
    root = ElementTree.fromstring(text)  # noqa: S314
    tooltips = [each.findtext(f"{SVG}title", "") for each in root.iter(f"{SVG}rect")]
    names = [member.name for lane in (report.owners, *report.stages) for member in lane.members]
    names += [name for idle in report.standbys for name in idle.names]
    for name in names:
        assert sum(tip.startswith((f"{name}:", f"{name} in ")) for tip in tooltips) == 1, name
    assert len(list(boxes(root, "box"))) == len(names)


def test_the_bottleneck_is_marked(drawn: tuple[Report, str]) -> None:
    report, text = drawn
    root = ElementTree.fromstring(text)  # noqa: S314
    slowest = [lane for lane in (report.owners, *report.stages) if lane.bottleneck]
    assert len(list(boxes(root, "mark"))) == len(slowest) >= 1
    assert sum(each.text == "bottleneck" for each in root.iter(f"{SVG}text")) == len(slowest)


def test_names_are_text(drawn: tuple[Report, str]) -> None:
    report, text = drawn
    root = ElementTree.fromstring(text)  # noqa: S314
    assert "<script" not in text
    assert not list(root.iter(f"{SVG}script"))
    assert "prefers-color-scheme: dark" in text
    assert draw(report) == text


def test_boxes_are_as_long_as_their_peers_shares(model: Model) -> None:
    report = planned(swarm(host("a"), host("b", layer_ms=300)), model).report()
    root = ElementTree.fromstring(draw(report))  # noqa: S314
    for lane in report.stages:
        length = sum(
            float(each.get("width", "0"))
            for each in root.iter(f"{SVG}rect")
            if any(each.findtext(f"{SVG}title", "").startswith(f"{member.name}:") for member in lane.members)
        )
        track = next(right - x for x, _, right, _ in boxes(root, "track"))
        assert length == pytest.approx(track * lane.load, abs=0.1)


def test_texts_are_shortened_to_their_room() -> None:
    assert shortened("peer", 100) == "peer"
    assert shortened("a long name of a peer", 68) == "a long na…"
    assert shortened("a long name", 12) == ""
    assert shortened("研究所の計算機", 68) == "研究所の…"


def test_a_crowd_that_stands_by_shares_a_box(model: Model) -> None:
    report = planned(swarm(host("fast", count=2), host("empty", count=2000, memory_gib=0)), model).report()
    text = draw(report)
    assert "2,000 x empty: memory for 0 layers" in text
    assert float(ElementTree.fromstring(text).get("height", "0")) < 600  # noqa: S314
