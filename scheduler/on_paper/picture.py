"""A report as a picture: the pipeline from top to bottom, a lane a stage, a box a peer. SVG without any library; pure.

The length of a stage's bar is its load, a box's part of the bar its peer's share of the stage's work; the strip below
tells where a step's time goes. Every box carries its peer's full name as a tooltip, however narrow it is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate
from xml.sax.saxutils import escape

from scheduler.on_paper.report import OWNERS, Lane, Report, seconds
from scheduler.on_paper.words import bottleneck, layers_of, some

WIDTH = 960
"""Of the picture; its height depends on the number of stages and standbys."""
_MARGIN = 16
_BAR_X, _BAR_WIDTH = 168, 648
_BAR_HEIGHT, _STRIP_HEIGHT, _LANE_HEIGHT = 32, 8, 64
_LOAD_X = _BAR_X + _BAR_WIDTH + 12
_CELL_WIDTH, _CELL_HEIGHT, _CELLS_A_ROW = 108, 22, 6
_MOST_STANDBYS = 300
"""With a box each; more share a box a kind."""
_LEAST_BOX_WIDTH = 2.0
_CHARACTER_WIDTH = 6.8
"""Of the 11 pixel monospace font, rounded up."""
_REGION_COLOURS = 8
_TIMES = ("compute", "line", "memory", "fill", "reduce", "idle")

_READING = (
    "Microbatches go from the owners down through the stages and back up. A bar's length is a stage's load, a box is",
    "a peer's share of the stage's work, the strip below tells where a step's time goes. Point at a box for figures.",
)
_STYLE = """
text { font: 11px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1c2430;
  pointer-events: none; }
.title { font-size: 15px; font-weight: bold; }
.faint { fill: #5b6675; }
.paper { fill: #ffffff; }
.track { fill: #eef1f5; }
.box { stroke: #ffffff; stroke-width: 0.5; }
.arrow { fill: none; stroke: #5b6675; stroke-width: 2; }
.mark { fill: none; stroke: #d0182b; stroke-width: 3; }
.marked { fill: #b01224; font-weight: bold; }
.r0 { fill: #a9cdf5; } .r1 { fill: #f7cf9a; } .r2 { fill: #b5e0b4; } .r3 { fill: #e2bdeb; }
.r4 { fill: #f5b8b4; } .r5 { fill: #ade3e0; } .r6 { fill: #e6de9c; } .r7 { fill: #cfcfd8; }
.compute { fill: #2f7d4f; } .line { fill: #d98a1f; } .memory { fill: #8a4fbf; }
.fill { fill: #3f78c9; } .reduce { fill: #c24a7a; } .idle { fill: #c3cad4; }
@media (prefers-color-scheme: dark) {
text { fill: #e6eaf0; } .faint { fill: #9aa6b5; } .paper { fill: #14181e; } .track { fill: #232a33; }
.box { stroke: #14181e; } .arrow { stroke: #9aa6b5; } .mark { stroke: #ff5a66; } .marked { fill: #ff7a84; }
.r0 { fill: #1f4f86; } .r1 { fill: #7d5317; } .r2 { fill: #27602b; } .r3 { fill: #65396f; }
.r4 { fill: #7c322e; } .r5 { fill: #1d6360; } .r6 { fill: #655d1b; } .r7 { fill: #4c4f5a; }
.compute { fill: #52b07a; } .line { fill: #e8a54a; } .memory { fill: #b083dd; }
.fill { fill: #6fa0e6; } .reduce { fill: #e07fa6; } .idle { fill: #4a5563; }
}
"""


def draw(report: Report) -> str:
    """Draw a plan.

    Returns:
        An SVG document, readable on light and on dark ground.
    """
    canvas = _Canvas([], 28.0)
    _head(canvas, report)
    for lane in (report.owners, *report.stages):
        _lane(canvas, lane, report)
    _standbys(canvas, report)
    _legend(canvas, report.regions)
    height = round(canvas.y + _MARGIN)
    label = escape(f"{len(report.stages)} stages, {report.tokens_per_s:,.0f} tokens/s predicted")
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{label}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
            *canvas.parts,
            "</svg>\n",
        )
    )


@dataclass(slots=True)
class _Canvas:
    """Elements so far, and where the next one goes.

    Attributes:
        y: from the top.
    """

    parts: list[str]
    y: float

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        if words:
            self.parts.append(f'<text x="{x:.2f}" y="{y:.2f}"{_class(kind)}>{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, tooltip: str = "") -> None:
        shape = f'<rect{_class(kind)} x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:g}"'
        self.parts.append(f"{shape}><title>{escape(tooltip)}</title></rect>" if tooltip else f"{shape}/>")


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _head(canvas: _Canvas, report: Report) -> None:
    canvas.text(_MARGIN, canvas.y, f"{report.tokens_per_s:,.0f} tokens/s predicted", "title")
    words = (
        f"no plan exceeds {report.bound_tokens_per_s:,.0f} (gap {report.gap:.1%}); a step takes "
        f"{seconds(report.step_s)}; everybody waits for {bottleneck(report)}"
    )
    canvas.text(_MARGIN, canvas.y + 20, shortened(words, WIDTH - 2 * _MARGIN), "faint")
    canvas.y += 40


def _lane(canvas: _Canvas, lane: Lane, report: Report) -> None:
    """A stage or the owners: its label, its bar of peers, the strip of its times, its load."""
    top = canvas.y
    if lane.number != OWNERS:
        middle = _BAR_X + 10
        canvas.parts.append(f'<path class="arrow" d="M{middle - 6} {top - 14:.2f} l6 6 l6 -6"/>')
    name, detail = _label(lane)
    canvas.text(_MARGIN, top + 14, name, "marked" if lane.bottleneck else "")
    canvas.text(_MARGIN, top + 29, detail, "faint")
    canvas.box(_BAR_X, top, _BAR_WIDTH, _BAR_HEIGHT, "track")
    _peers(canvas, lane, report.regions)
    if lane.bottleneck:
        canvas.box(_BAR_X - 2, top - 2, _BAR_WIDTH + 4, _BAR_HEIGHT + 4, "mark", f"{name} is the bottleneck")
        canvas.text(_LOAD_X, top + 29, "bottleneck", "marked")
    canvas.text(_LOAD_X, top + 14, f"load {lane.load:.0%}")
    _strip(canvas, lane, report.step_s)
    canvas.y += _LANE_HEIGHT


def _label(lane: Lane) -> tuple[str, str]:
    peers = _peers_in_words(len(lane.members))
    if lane.number == OWNERS:
        return "owners: the ends", peers
    return f"stage {lane.number}: layers {layers_of(lane)}", peers


def _peers_in_words(number: int) -> str:
    return f"{number:,} peer" + ("s" if number > 1 else "")


def _peers(canvas: _Canvas, lane: Lane, regions: Sequence[str]) -> None:
    widths = _widths([member.share for member in lane.members], _BAR_WIDTH * min(lane.load, 1.0))
    for member, (x, width) in zip(lane.members, _side_by_side(widths), strict=True):
        where = f" in {regions[member.region]}" if regions else ""
        words = f"{member.name}{where}: {member.share:.1%} of the work"
        canvas.box(x, canvas.y, width, _BAR_HEIGHT, f"box {_region_class(member.region)}", words)
        canvas.text(x + 3, canvas.y + 20, shortened(member.name, width - 6))


def _strip(canvas: _Canvas, lane: Lane, step_s: float) -> None:
    parts: tuple[float, ...] = astuple(lane.times)
    # Where all-reduces overlap the rest, the parts are longer than the step.
    total_s = max(sum(parts), step_s)
    widths = [_BAR_WIDTH * part_s / total_s for part_s in parts]
    top = canvas.y + _BAR_HEIGHT + 3
    for name, part_s, (x, width) in zip(_TIMES, parts, _side_by_side(widths), strict=True):
        if width > 0:
            canvas.box(
                x, top, width, _STRIP_HEIGHT, name, f"{name}: {seconds(part_s)}, {part_s / step_s:.0%} of a step"
            )


def _standbys(canvas: _Canvas, report: Report) -> None:
    total = sum(len(idle.names) for idle in report.standbys)
    if not total:
        return
    if total <= _MOST_STANDBYS:
        cells = [(name, idle.words) for idle in report.standbys for name in idle.names]
    else:
        cells = [(some(idle.kind, idle.names), idle.words) for idle in report.standbys]
    canvas.text(_MARGIN, canvas.y + 14, "standing by")
    canvas.text(_MARGIN, canvas.y + 29, _peers_in_words(total), "faint")
    for (x, y), (name, words) in zip(_grid(canvas.y, len(cells)), cells, strict=True):
        canvas.box(x, y, _CELL_WIDTH - 6, _CELL_HEIGHT - 4, "box track", f"{name}: {words}")
        canvas.text(x + 3, y + 13, shortened(name, _CELL_WIDTH - 12))
    canvas.y += max(_rows(len(cells)) * _CELL_HEIGHT, 36) + 16


def _legend(canvas: _Canvas, regions: Sequence[str]) -> None:
    canvas.text(_MARGIN, canvas.y + 12, "a step's time", "faint")
    _swatches(canvas, _TIMES, _TIMES)
    if regions:
        canvas.text(_MARGIN, canvas.y + 12, "regions", "faint")
        _swatches(canvas, regions, [_region_class(number) for number in range(len(regions))])
    for words in _READING:
        canvas.text(_MARGIN, canvas.y + 16, words, "faint")
        canvas.y += 16


def _swatches(canvas: _Canvas, names: Sequence[str], kinds: Sequence[str]) -> None:
    for (x, y), name, kind in zip(_grid(canvas.y, len(names)), names, kinds, strict=True):
        canvas.box(x, y + 3, 10, 10, kind, name)
        canvas.text(x + 15, y + 12, shortened(name, _CELL_WIDTH - 20))
    canvas.y += _rows(len(names)) * _CELL_HEIGHT


def _grid(top: float, count: int) -> Iterator[tuple[float, float]]:
    for number in range(count):
        row, column = divmod(number, _CELLS_A_ROW)
        yield _BAR_X + column * _CELL_WIDTH, top + row * _CELL_HEIGHT


def _rows(count: int) -> int:
    return -(-count // _CELLS_A_ROW)


def _widths(shares: Sequence[float], width: float) -> list[float]:
    """Widths by share that fill `width`; the smallest peer can still be seen and pointed at."""
    least = min(_LEAST_BOX_WIDTH, width / (2 * len(shares)))
    return [least + (width - least * len(shares)) * share for share in shares]


def _side_by_side(widths: Sequence[float]) -> Iterator[tuple[float, float]]:
    starts = accumulate(widths, initial=float(_BAR_X))
    return zip(starts, widths, strict=False)


def _region_class(region: int) -> str:
    return f"r{region % _REGION_COLOURS}"


def shortened(name: str, width: float) -> str:
    """As much of a text as has room; nothing where hardly a letter has.

    Args:
        width: pixels.
    """
    room = int(width / _CHARACTER_WIDTH)
    columns = [_columns(character) for character in name]
    if sum(columns) <= room:
        return name
    if room < 3:
        return ""
    kept = sum(1 for end in accumulate(columns) if end < room)
    return f"{name[:kept]}…"


def _columns(character: str) -> int:
    """Letters of some scripts are twice as wide as others, even in a monospace font."""
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
