"""Colours of the pages, by day and by night, and the style sheet made of them. Pure.

The pairs in `READ_ON` are text on a ground; tests hold them to a contrast of 4.5, and `SEEN_ON` to 3 (WCAG 2.2, AA).
"""

from __future__ import annotations

LIGHT = {
    "ground": "#f4f6f8",
    "card": "#ffffff",
    "inset": "#eef1f5",
    "edge": "#d5dbe3",
    "ink": "#1b2430",
    "faint": "#536071",
    "accent": "#1a5fb4",
    "good": "#1d6f42",
    "wait": "#8a5300",
    "bad": "#b3152a",
    "box-works": "#bfe3cb",
    "box-waits": "#e2eddf",
    "box-late": "#fadfae",
    "box-rest": "#e3e7ed",
    "box-lost": "#f8d3d6",
    "series-1": "#1a5fb4",
    "series-2": "#b35c00",
    "series-3": "#1d7d4b",
    "series-4": "#9a3d8f",
    "series-5": "#5f6b7a",
}
DARK = {
    "ground": "#0f1318",
    "card": "#181d24",
    "inset": "#212831",
    "edge": "#323b47",
    "ink": "#e4e9f0",
    "faint": "#9fabba",
    "accent": "#7fb2f5",
    "good": "#6fce97",
    "wait": "#f0b95c",
    "bad": "#ff8f98",
    "box-works": "#1f5a3a",
    "box-waits": "#25382d",
    "box-late": "#5e4410",
    "box-rest": "#313a46",
    "box-lost": "#632129",
    "series-1": "#7fb2f5",
    "series-2": "#f0a457",
    "series-3": "#6fce97",
    "series-4": "#d88fd0",
    "series-5": "#9fabba",
}
_GROUNDS = ("ground", "card", "inset")
_BOXES = ("box-works", "box-waits", "box-late", "box-rest", "box-lost")
READ_ON = (
    *((text, ground) for text in ("ink", "faint", "accent", "good", "wait", "bad") for ground in _GROUNDS),
    *(("ink", box) for box in _BOXES),
)
SEEN_ON = tuple((f"series-{number}", "card") for number in range(1, 6))

_RULES = """
body { background: var(--ground); color: var(--ink); font: 14px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
.nicegui-content { padding: 0; display: block; }
.page { max-width: 1440px; margin: 0 auto; padding: 16px; display: grid; gap: 12px; }
.page h1 { font-size: 18px; line-height: 1.3; font-weight: 650; margin: 0; }
.page h2 { font-size: 13px; line-height: 1.3; font-weight: 650; margin: 0 0 10px; color: var(--faint);
  text-transform: none; letter-spacing: .01em; }
.page a { color: var(--accent); text-decoration: none; }
.page a:hover { text-decoration: underline; }
.page :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 6px; padding: 12px 14px; min-width: 0; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 14px; }
.faint { color: var(--faint); }
.figures { margin: 0; display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px; }
.figure { background: var(--card); border: 1px solid var(--edge); border-radius: 6px; padding: 8px 12px; min-width: 0; }
.figure dt { color: var(--faint); font-size: 12px; }
.figure dd { font-size: 20px; line-height: 1.3; font-variant-numeric: tabular-nums; margin: 0;
  overflow-wrap: anywhere; }
.figure .note { color: var(--faint); font-size: 12px; line-height: 1.35; min-height: 1.35em; }
.state { font-weight: 650; }
.state.good { color: var(--good); } .state.wait { color: var(--wait); } .state.bad { color: var(--bad); }
.alerts { list-style: none; padding: 0; margin: 0; display: grid; gap: 6px; }
.alerts li { border: 1px solid var(--edge); border-left: 4px solid var(--wait); background: var(--card);
  border-radius: 4px; padding: 6px 12px; overflow-wrap: anywhere; }
.alerts li.critical { border-left-color: var(--bad); color: var(--bad); font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 12px; }
.halves { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 12px; }
.chart { height: 220px; width: 100%; }
.lanes { display: grid; gap: 8px; padding: 0; margin: 0; list-style: none; }
.lane { display: grid; grid-template-columns: 150px minmax(0, 1fr) 128px; gap: 10px; align-items: center; }
.lane-name { font-weight: 600; }
.lane-detail, .lane-note { color: var(--faint); font-size: 12px; }
.lane-load { font-size: 12px; font-variant-numeric: tabular-nums; }
.lane-bar { display: flex; flex-wrap: wrap; gap: 4px; background: var(--inset); border-radius: 5px; padding: 4px;
  border: 2px solid transparent; min-height: 40px; }
.lane.bottleneck .lane-bar { border-color: var(--bad); }
.lane.bottleneck .lane-note { color: var(--bad); font-weight: 650; }
.page a.box { color: var(--ink); background: var(--box-rest); border-radius: 4px; padding: 2px 8px; font-size: 12px;
  line-height: 1.35; min-width: 92px; flex-basis: 92px; border: 1px solid transparent; overflow-wrap: anywhere; }
.page a.box b { display: block; font: 600 12px/1.4 ui-monospace, Menlo, Consolas, monospace; }
.page a.works { background: var(--box-works); }
.page a.waits { background: var(--box-waits); }
.page a.lost, .page a.left { background: var(--box-lost); }
.page a.late { background: var(--box-late); border-color: var(--wait); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-top: 10px; font-size: 12px; color: var(--faint); }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px;
  vertical-align: -1px; border: 1px solid transparent; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 18px; margin: 0; }
.facts dt { color: var(--faint); } .facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.page .q-table__card { background: transparent; color: var(--ink); box-shadow: none; }
.page .q-table th, .page .q-table td { font-size: 13px; padding: 3px 10px; height: 28px; border-color: var(--edge);
  color: var(--ink); font-variant-numeric: tabular-nums; }
.page .q-table td.words { white-space: normal; min-width: 14em; overflow-wrap: anywhere; }
.page .q-table th { color: var(--faint); font-weight: 600; }
.page .q-table th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
.page .q-table__bottom { color: var(--faint); border-color: var(--edge); min-height: 36px; font-size: 12px; }
.page .serious { color: var(--bad); }
@media (max-width: 900px) {
  .charts, .halves { grid-template-columns: minmax(0, 1fr); }
}
@media (max-width: 600px) {
  .page { padding: 10px; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .lane { grid-template-columns: minmax(0, 1fr) auto; gap: 2px 10px; }
  .lane-bar { grid-column: 1 / -1; grid-row: 2; }
  .page .q-table td.time { white-space: normal; min-width: 7em; }
}
"""


def style_sheet() -> str:
    """The pages' CSS."""
    return (
        f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n{_RULES}"
    )


def colour(name: str) -> str:
    """JavaScript for a colour, as the browser has it at the time."""
    return f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"


def _variables(palette: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in palette.items())
