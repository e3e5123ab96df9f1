"""The pages: the run, and one a peer. They follow the view every second; whatever peers say is shown as text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from scheduler.dashboard import charts, tables, words
from scheduler.dashboard.alerts import alerts
from scheduler.dashboard.elements import Chart, Table, link, section, set_classes, text
from scheduler.dashboard.lanes import Lanes
from scheduler.dashboard.theme import style_sheet
from scheduler.dashboard.view import View
from swarm.words import duration, short

_EVERY_S = 1.0
_NOTHING = "-"

Look = Callable[[], Awaitable[View]]


def install(look: Look) -> None:
    """Make the pages known.

    Args:
        look: the run as of now.
    """

    @ui.page("/", title="swarm")
    async def run() -> None:
        _dress()
        view = await look()
        with ui.element("main").classes("page"):
            _follow(look, [_Head(view), _Figures(view), _Alerts(view), _Body(view)])

    @ui.page("/peer/{peer:path}", title="swarm · peer")
    async def peer(peer: str) -> None:
        _dress()
        view = await look()
        with ui.element("main").classes("page"):
            _follow(look, [_PeerPage(peer, view)])


def _dress() -> None:
    ui.add_css(style_sheet())


def _follow(look: Look, parts: list[_Head | _Figures | _Alerts | _Body | _PeerPage]) -> None:
    async def refresh() -> None:
        view = await look()
        for part in parts:
            part.update(view)

    ui.timer(_EVERY_S, refresh)


class _Head:
    def __init__(self, view: View) -> None:
        with ui.element("header").classes("head"):
            text("h1", f"run {view.run}")
            self._state = text("span")
            self._phase = text("span", classes="faint")
            self._waits = text("span", classes="faint")
        self.update(view)

    def update(self, view: View) -> None:
        state, how = words.state(view)
        self._state.set_text(state)
        set_classes(self._state, f"state {how}")
        running = state == "training"
        self._phase.set_text(f"step {view.step + 1}: {words.phase_in_words(view.phase)}" if running else "")
        late = [peer.name for peer in view.peers if peer.holds_up]
        who = ", ".join(late[:4]) + (" …" if len(late) > 4 else "")
        self._waits.set_text(f"waits for {who}" if running and who else "")


class _Figures:
    _NAMES = ("step", "loss", "tokens/s", "to go", "plan", "last commit")

    def __init__(self, view: View) -> None:
        self._parts = {}
        with ui.element("dl").classes("figures").props('aria-label="the run in figures"'):
            for name in self._NAMES:
                with ui.element("div").classes("figure"):
                    text("dt", name)
                    self._parts[name] = text("dd"), text("dd", classes="note")
        self.update(view)

    def update(self, view: View) -> None:
        found = {
            "step": (f"{view.step:,} / {view.steps:,}", f"{view.tokens:,} tokens"),
            "loss": (
                _NOTHING if view.loss is None else f"{view.loss:.4f}",
                "" if view.grad_norm is None else f"gradient norm {view.grad_norm:.3g}",
            ),
            "tokens/s": (f"{view.tokens_per_s:,.0f}", f"{view.predicted_tokens_per_s:,.0f} planned"),
            "to go": (duration(view.eta_s) if view.step else _NOTHING, f"{view.step / view.steps:.0%} done"),
            "plan": (
                f"{view.plan}" if view.plan else _NOTHING,
                f"misses at most {view.gap:.1%}" if view.plan and view.bound_tokens_per_s else "",
            ),
            "last commit": (
                f"{duration(view.step_age_s)} ago" if view.step else _NOTHING,
                f"{words.counted(view.counts.get('lost', 0), 'loss', 'losses')}, "
                f"{words.counted(view.counts.get('round_failed', 0), 'broken round')}",
            ),
        }
        for name, (value, note) in found.items():
            shown, below = self._parts[name]
            shown.set_text(value)
            below.set_text(note)


class _Alerts:
    def __init__(self, view: View) -> None:
        self._list = ui.element("ul").classes("alerts").props('role="status" aria-label="alerts"')
        self._shown: list[tuple[bool, str]] | None = None
        self.update(view)

    def update(self, view: View) -> None:
        found = [(alert.is_critical, alert.text) for alert in alerts(view)]
        if found != self._shown:
            self._shown = found
            self._list.clear()
            with self._list:
                for is_critical, sentence in found:
                    text("li", sentence, "critical" if is_critical else "")
            self._list.set_visibility(bool(found))


class _Body:
    def __init__(self, view: View) -> None:
        with section("pipeline", "Pipeline"):
            self._lanes = Lanes(view)
        self._charts = []
        with ui.element("div").classes("charts"):
            for key, title, options in (
                ("loss", "Loss", charts.loss),
                ("throughput", "Throughput, plan and bound", charts.throughput),
                ("times", "Where a step's time goes", charts.times),
            ):
                with section(key, title):
                    self._charts.append(Chart(options, view))
        with section("peers", "Peers and what they contributed"):
            self._peers = Table(tables.PEERS, tables.peers(view), 15, "no peer has come yet")
        with ui.element("div").classes("halves"):
            with section("events", "Events"):
                self._events = Table(tables.EVENTS, tables.events(view.events), 12, "nothing happened yet")
            with section("links", "Links between peers, as measured"):
                self._links = Table(tables.LINKS, tables.links(view.links, view.scheduler), 12, "none was measured")

    def update(self, view: View) -> None:
        self._lanes.update(view)
        for chart in self._charts:
            chart.update(view)
        self._peers.update(tables.peers(view))
        self._events.update(tables.events(view.events))
        self._links.update(tables.links(view.links, view.scheduler))


class _PeerPage:
    def __init__(self, peer: str, view: View) -> None:
        self._peer = peer
        with ui.element("header").classes("head"):
            link("← the run", "/")
            text("h1", f"peer {short(peer)}")
            self._state = text("span")
        with section("facts", "Facts"):
            self._facts = ui.element("dl").classes("facts")
        self._shown: list[tuple[str, str]] | None = None
        with ui.element("div").classes("halves"):
            with section("events", "Events about it"):
                self._events = Table(tables.EVENTS, [], 12, "none")
            with section("links", "Its links, as measured"):
                self._links = Table(tables.LINKS, [], 12, "none was measured")
        self.update(view)

    def update(self, view: View) -> None:
        found = view.peer(self._peer)
        facts = words.facts(found) if found else [("peer id", self._peer), ("state", "nobody of this run")]
        condition = found.condition if found else "unknown"
        self._state.set_text(condition)
        set_classes(
            self._state, f"state {'good' if condition == 'works' else 'bad' if condition == 'lost' else 'wait'}"
        )
        if facts != self._shown:
            self._shown = facts
            self._facts.clear()
            with self._facts:
                for name, value in facts:
                    text("dt", name)
                    text("dd", value)
        self._events.update(tables.events([event for event in view.events if self._peer in event.peers]))
        self._links.update(tables.links(found.links if found else (), view.scheduler))
