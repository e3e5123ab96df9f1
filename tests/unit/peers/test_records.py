"""Ledgers of committed steps on a member's disk."""

from __future__ import annotations

import random
from pathlib import Path

from peers.records import KEPT_STEPS, Records
from swarm.wire.messages import RoundKey

KEY = RoundKey(3, 1)


def test_what_is_kept_comes_back_also_after_a_restart(tmp_path: Path) -> None:
    Records(tmp_path / "records").put(7, KEY, 0.5, b"who did what")
    again = Records(tmp_path / "records")
    assert again.get(7) == (KEY, 0.5, b"who did what")
    assert again.get(8) is None


def test_what_does_not_go_on_is_forgotten(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for step in range(5):
        records.put(step, KEY, 1.0, bytes([step]))
    records.rewind(3)
    assert [records.get(step) is not None for step in range(5)] == [True, True, True, False, False]


def test_the_oldest_give_way(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for step in (0, 1, KEPT_STEPS, KEPT_STEPS + 64):
        records.put(step, KEY, 1.0, b"x")
    assert records.get(0) is None
    assert records.get(1) is None
    assert records.get(KEPT_STEPS) is not None


def test_damage_shows(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(7, KEY, 0.5, bytes(range(100)))
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    dice = random.Random(1)
    for _ in range(200):
        broken = bytearray(whole)
        broken[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(broken)
        found = records.get(7)
        assert found in (None, (KEY, 0.5, bytes(range(100)))), "the record is whole, or not there"
    path.write_bytes(whole[: len(whole) // 2])
    assert records.get(7) is None
