"""Two peers use the coarser of what their lines take."""

from __future__ import annotations

from dataclasses import replace

from peers.link_codecs import LinkCodecs
from swarm.plan import ThinLine
from tests.support.plans import plan

ALLOWED = ("bf16", "int8", "int4")
THIN = replace(
    plan(["a", "b"], ["c"]),
    thin_lines=(ThinLine(peer="b", codec="int8"), ThinLine(peer="c", codec="int4"), ThinLine(peer="a", codec="other")),
)


def test_the_coarser_of_two_lines_counts_in_both_directions() -> None:
    codecs = LinkCodecs.of(ALLOWED, THIN)
    for one, other, codec in (("o", "b", "int8"), ("b", "c", "int4"), ("o", "p", "bf16"), ("o", "a", "int4")):
        assert codecs.between(one, other) == codecs.between(other, one) == codec


def test_without_a_choice_there_is_one_codec() -> None:
    assert LinkCodecs.of(("fp32",), THIN).between("b", "c") == "fp32"


def test_lost_peers_have_no_line() -> None:
    assert [line.peer for line in THIN.without(frozenset({"b"}), 1).thin_lines] == ["c", "a"]
