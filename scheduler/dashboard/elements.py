"""The pieces that pages are made of: they are built once and change in place, so that focus and scrolling stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from scheduler.dashboard.view import View

_SORTED = (
    "!props.col.__thClass.includes('sorted') ? null "
    ": props.col.__thClass.includes('sort-desc') ? 'descending' : 'ascending'"
)
"""Which way a table is sorted, for those who do not see it; Quasar tells it by a class only."""

Options = Callable[[View], tuple[dict[str, Any], str]]


def text(tag: str, words: str = "", classes: str = "") -> TextElement:
    """An element with a text; whatever it is, it is shown as text."""
    made: TextElement = TextElement(tag=tag, text=words).classes(classes)
    return made


def set_classes(element: ui.element, words: str) -> None:
    """Replace an element's classes where they changed."""
    if " ".join(element.classes) != words:
        element.classes(replace=words)


def set_prop(element: ui.element, name: str, value: str) -> None:
    """Set an attribute where it changed."""
    if element.props.get(name) != value:
        element.props[name] = value
        element.update()


def link(words: str, target: str) -> TextElement:
    """A link inside the dashboard."""
    made = text("a", words)
    made.props["href"] = target
    return made


def peer_address(peer: str) -> str:
    """The page of a peer."""
    return f"/peer/{quote(peer, safe='')}"


@contextmanager
def section(key: str, title: str, classes: str = "card") -> Iterator[None]:
    """A part of a page with a heading that names it."""
    with ui.element("section").classes(classes) as made:
        made.props["aria-labelledby"] = f"heading-{key}"
        text("h2", title).props["id"] = f"heading-{key}"
        yield


class Chart:
    """A chart that follows the view.

    Args:
        options: what it shows, and the same in words.
    """

    def __init__(self, options: Options, view: View) -> None:
        self._options = options
        self._shown, words = options(view)
        self._chart = ui.echart(self._shown).classes("chart")
        self._chart.props["role"] = "img"
        self._chart.props["aria-label"] = words

    def update(self, view: View) -> None:
        """Show what is new."""
        found, words = self._options(view)
        if found != self._shown:
            self._shown = found
            self._chart.options.clear()
            self._chart.options.update(found)
            self._chart.props["aria-label"] = words
            self._chart.update()


class Table:
    """A table that can be sorted with mouse and keyboard.

    Args:
        columns: (key, heading, kind); kind is `text`, `words`, `time`, `number`, or `peer`: a link, with the
            id in `KEY_id`, where that is not empty.
        rows: by column; `id` tells them apart, `serious` marks one.
        page_rows: shown at once.
        nothing: said where there are no rows.
    """

    def __init__(
        self,
        columns: Sequence[tuple[str, str, str]],
        rows: list[dict[str, Any]],
        page_rows: int,
        nothing: str,
    ) -> None:
        laid_out = [
            {
                "name": key,
                "label": label,
                "field": key,
                "sortable": True,
                "align": "right" if kind == "number" else "left",
                "classes": kind,
                ":format": "value => typeof value === 'number' ? value.toLocaleString('en-US') : value",
            }
            for key, label, kind in columns
        ]
        self._page_rows = page_rows
        self._table = ui.table(columns=laid_out, rows=rows, row_key="id", pagination=page_rows)
        self._table.props("flat dense binary-state-sort")
        self._table.props["no-data-label"] = nothing
        self._table.props["hide-pagination"] = len(rows) <= page_rows
        self._table.add_slot(
            "header-cell",
            f'<q-th :props="props" :aria-sort="{_SORTED}">'
            '<button type="button">{{ props.col.label }}</button></q-th>',
        )
        for key, _, kind in columns:
            if kind == "peer":
                address = f"'/peer/' + encodeURIComponent(props.row.{key}_id)"
                self._table.add_slot(
                    f"body-cell-{key}",
                    f'<q-td :props="props"><a v-if="props.row.{key}_id" :href="{address}">{{{{ props.value }}}}</a>'
                    "<span v-else>{{ props.value }}</span></q-td>",
                )
            elif kind == "words":
                self._table.add_slot(
                    f"body-cell-{key}",
                    "<q-td :props=\"props\"><span :class=\"props.row.serious ? 'serious' : ''\">"
                    "{{ props.value }}</span></q-td>",
                )

    def update(self, rows: list[dict[str, Any]]) -> None:
        """Show what is new."""
        if rows != self._table.rows:
            self._table.props["hide-pagination"] = len(rows) <= self._page_rows
            self._table.rows = rows
