"""Everything can be read by day and by night: contrasts as WCAG 2.2 wants them (AA)."""

from __future__ import annotations

import pytest

from scheduler.dashboard.theme import DARK, LIGHT, READ_ON, SEEN_ON


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_contrasts(palette: dict[str, str]) -> None:
    assert LIGHT.keys() == DARK.keys()
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    low = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in READ_ON}
    assert not {pair: found for pair, found in low.items() if found < 4.5}
    low = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in SEEN_ON}
    assert not {pair: found for pair, found in low.items() if found < 3.0}
