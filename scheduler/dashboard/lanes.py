"""The pipeline on a page: a lane a stage, a box a peer; bottleneck and waiting peers marked."""

from __future__ import annotations

from dataclasses import dataclass, field

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from scheduler.dashboard.elements import peer_address, set_classes, set_prop, text
from scheduler.dashboard.view import REST, Box, Condition, Lane, View
from scheduler.dashboard.words import counted

MOST_BOXES = 60
"""In a lane; the table below has the others."""
_KINDS: dict[Condition, str] = {"works": "works", "waits": "waits", "lost": "lost", "left": "left", "paused": "left"}
_LEGEND = (
    ("box-works", "works"),
    ("box-waits", "waits for others"),
    ("box-late", "the step waits for it"),
    ("box-rest", "stands by"),
    ("box-lost", "lost"),
)


@dataclass(slots=True)
class _LaneElements:
    item: ui.element
    load: TextElement
    note: TextElement
    boxes: dict[str, tuple[ui.element, TextElement]] = field(default_factory=dict)


class Lanes:
    """Follows the view; lanes are built anew only under another plan."""

    def __init__(self, view: View) -> None:
        self._list = ui.element("ul").classes("lanes")
        self._built: tuple[object, ...] | None = None
        self._lanes: dict[str, _LaneElements] = {}
        with ui.element("div").classes("legend").props("aria-hidden=true"):
            for colour, words in _LEGEND:
                with ui.element("span"):
                    ui.element("i").style(f"background: var(--{colour})")
                    text("span", words)
            with ui.element("span"):
                ui.element("i").style("border: 2px solid var(--bad)")
                text("span", "bottleneck, by the plan")
        self.update(view)

    def update(self, view: View) -> None:
        """Show what is new."""
        structure = tuple((lane.key, lane.detail, tuple(box.peer for box in lane.boxes)) for lane in view.lanes)
        if structure != self._built:
            self._built = structure
            self._list.clear()
            with self._list:
                self._lanes = {lane.key: _build(lane) for lane in view.lanes}
                if not view.lanes:
                    text("li", "no peer has come yet", "faint")
        for lane in view.lanes:
            _refresh(self._lanes[lane.key], lane)


def _build(lane: Lane) -> _LaneElements:
    with ui.element("li").classes("lane") as item:
        with ui.element("div"):
            text("div", lane.title, "lane-name")
            text("div", lane.detail, "lane-detail")
        with ui.element("div").classes("lane-bar"):
            shown = lane.boxes[:MOST_BOXES]
            boxes = {box.peer: _build_box(box, lane.key != REST) for box in shown}
            if len(lane.boxes) > len(shown):
                text("span", f"and {len(lane.boxes) - len(shown):,} more", "lane-detail")
        with ui.element("div"):
            load, note = text("div", "", "lane-load"), text("div", "", "lane-note")
    return _LaneElements(item, load, note, boxes)


def _build_box(box: Box, grows: bool) -> tuple[ui.element, TextElement]:
    with ui.element("a") as made:
        made.props["href"] = peer_address(box.peer)
        if grows:
            made.style(f"flex-grow: {max(1, round(100 * box.share))}")
        text("b", box.name)
        state = text("span")
    return made, state


def _refresh(elements: _LaneElements, lane: Lane) -> None:
    set_classes(elements.item, "lane bottleneck" if lane.is_bottleneck else "lane")
    elements.load.set_text(f"load {lane.load:.0%}" if lane.load else "")
    elements.note.set_text("bottleneck" if lane.is_bottleneck else counted(len(lane.boxes), "peer"))
    for box in lane.boxes[:MOST_BOXES]:
        made, state = elements.boxes[box.peer]
        kind = f"box {_KINDS.get(box.condition, '')} {'late' if box.holds_up else ''}"
        set_classes(made, " ".join(kind.split()))
        set_prop(made, "title", f"{box.peer}: {box.words}")
        set_prop(made, "aria-label", f"peer {box.name}: {box.words}")
        state.set_text(box.condition + (f" · {box.share:.0%}" if box.share else ""))
