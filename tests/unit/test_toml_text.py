"""What we write, the standard library reads back."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.toml_text import to_toml

_SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(_KEYS, _SCALARS | st.lists(_VALUES, max_size=3), max_size=4),
    st.dictionaries(_KEYS, st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=3),
)
def test_round_trip(top: dict[str, Any], sections: dict[str, dict[str, Any]]) -> None:
    values = top | sections
    assert tomllib.loads(to_toml(values, {})) == values


def test_comments_stand_above_their_section() -> None:
    text = to_toml({"name": "x", "model": {"size": 3}}, {"": "The run.", "model": "Any decoder.", "other": "No."})
    assert text == '# The run.\n\nname = "x"\n\n# Any decoder.\n[model]\nsize = 3\n'


def test_types_stay_apart() -> None:
    values: dict[str, Any] = {"a": True, "b": 1, "c": 1.0, "d": "1", "e": [1, "x"], "s": {"f": {"g": [False]}}}
    found = tomllib.loads(to_toml(values, {}))
    assert found == values
    assert [type(found[key]) for key in "abcd"] == [bool, int, float, str]
