"""What people see in a terminal of 80 columns: no line is longer, and no figure is cut off."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table

from peers.self_view import Part, SelfView, as_lines
from scheduler.text import status_table
from swarm.monitor.display import panel
from swarm.monitor.feed import Feed
from swarm.wire.messages import MetricsAnnounced, PlanAnnounced, StageAnnounced
from tests.support.runs import Run
from tests.support.watched import peer_facts, status

COLUMNS = 80
PEERS = tuple(f"12D3KooW{number:044d}" for number in range(20))


def lines(*shown: RenderableType) -> str:
    """As a terminal has them."""
    console = Console(width=COLUMNS, record=True)
    console.print(*shown)
    text = console.export_text()
    assert max(map(cell_len, text.splitlines())) <= COLUMNS
    return text


def watched() -> Feed:
    """A large run, in which everything has a long name."""
    metrics = MetricsAnnounced(
        certificate=b"",
        term=1,
        sent_at_s=1.0,
        run="a run with quite a long name for a terminal",
        phase="reducing",
        step=123_456,
        steps=1_000_000,
        tokens=987_654_321_000,
        loss=(12.3456,),
        tokens_per_s=1_234_567.0,
        eta_s=86_400.0 * 30,
        step_age_s=0.5,
        plan=2,
        num_hosts=900,
        num_owners=100,
        waiting_for=PEERS,
        alerts=("stage 3 has one replica: without it the run stops, and all of its work waits for it to come back",),
    )
    stages = tuple(StageAnnounced(first_layer=n, last_layer=n + 1, hosts=PEERS) for n in range(3))
    feed = Feed(Run().membership)
    feed.metrics = metrics
    feed.plan = PlanAnnounced(
        certificate=b"",
        term=1,
        sent_at_s=1.0,
        number=123,
        stages=stages,
        owners=PEERS,
        predicted_tokens_per_s=1_234_567.0,
        bound_tokens_per_s=1_300_000.0,
        gap=0.05,
    )
    return feed


def test_the_watchers_view() -> None:
    shown = lines(panel(watched(), "", 2.0))
    for figure in ("123,456 of 1,000,000", "12.3456", "1,234,567", "900 hosts", "100 owners"):
        assert figure in shown


@pytest.mark.parametrize("phase", ["open", "paused"])
def test_the_admins_status(phase: str) -> None:
    peers = {peer: peer_facts(waiting_for="activations and gradients", computed_tokens=10**12) for peer in PEERS}
    found = status(peers=peers, phase=phase, last_step={}, waiting_for=list(PEERS))
    shown = lines(*status_table(found, ["a long alert about a stage that has one replica only, which is a risk"]))
    assert "1,000,000,000,000" in shown
    assert ("paused by its admin" in shown) == (phase == "paused")


def test_the_volunteers_own_view() -> None:
    view = SelfView(
        peer=PEERS[0],
        run="a run with quite a long name for a terminal",
        roles=("host", "owner"),
        state="pausing",
        reason="the day's amount of 20 GiB is used up, and counts anew at midnight",
        leader=PEERS[1],
        is_cut_off=True,
        reached="dialled at 203.0.113.7, which is what the scheduler tried",
        parts=(Part("layers 0-127", 123_456, 0.5),),
        beside=(),
        computed_tokens=10**12,
        computed_microbatches=10**9,
        sent_bytes=1 << 44,
        received_bytes=1 << 44,
        today_bytes=1 << 44,
        waiting_for="the admin, who paused the run",
        waiting_s=86_400.0,
        running_s=1e6,
    )
    table = Table(show_header=False, box=None)
    for row in as_lines(view.as_json()):
        table.add_row(*row)
    shown = lines(table)
    assert "1,000,000,000,000 tokens" in shown
    assert "the admin, who paused the run, for 86400 s" in shown
