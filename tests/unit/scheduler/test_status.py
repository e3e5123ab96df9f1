"""What `swarm status` shows is what the scheduler wrote."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from scheduler.instructions import Record
from scheduler.status import Status
from scheduler.text import status_table
from tests.support.plans import plan
from tests.support.runs import Run, capabilities, heartbeat


def test_a_saved_status_can_be_shown(tmp_path: Path) -> None:
    status = Status(tmp_path / "status.json", Run().config)
    status.plan = plan(["host-a", "host-b"])
    facts = capabilities()
    status.on_registered("host-a", facts)
    status.on_registered("host-b", facts)
    status.on_heartbeat("host-a", heartbeat(1234, "gradients"))
    status.on_state("host-b", "lost")
    status.waiting_for = ("host-a",)
    status.started_at_s = 1.0
    status.on_step(Record(step=4, plan=1, round=1, tokens=100, loss_sum=250.0, grad_norm=1.0, work=(), digests=()))
    status.save()
    found = json.loads((tmp_path / "status.json").read_bytes())
    console = Console(record=True, width=140)
    console.print(*status_table(found))
    shown = console.export_text()
    for part in ("loss 2.5", "step 5/", "1,234", "gradients", "lost", "waits for host-a"):
        assert part in shown, shown
