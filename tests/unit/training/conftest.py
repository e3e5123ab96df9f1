"""What these tests share."""

from __future__ import annotations

import pytest

import swarm.training.device


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor multiplies bf16, however slowly."""
    monkeypatch.setattr(swarm.training.device, "_multiplies_bf16", lambda on_cpu: True)
