"""A drawing of a dashboard's layout, from the very object that Kibana imports; the figures in it are made up."""

from __future__ import annotations

import json
import random
import re
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]

_COLUMN: Final = 26  # pixels of one of Kibana's 48 columns
_ROW: Final = 17
_GAP: Final = 4
_MARGIN: Final = 12
_WIDTH: Final = 48 * _COLUMN
_CONTROL: Final = 44
_LETTER: Final = 7.4
_COLORS: Final = ("#16c5c0", "#c61e25", "#61a2ff", "#ee72a6", "#f6726a", "#eaae01", "#ffc7db", "#a6edea", "#b084f5")
_STYLE: Final = """
text{font:12px Inter,system-ui,sans-serif;fill:#1d2a3e}
.title{font-weight:600}.big{font-size:26px;font-weight:600}.small{font-size:11px;fill:#516381}
.panel{fill:#fff;stroke:#cad3e2}.page{fill:#f6f9fc}.line{stroke:#e3e8f2}.head{font-weight:600;font-size:11px}
"""


def picture(dashboard: Json, objects: Iterable[Json]) -> str:
    """Return SVG; `objects` has the saved searches that the dashboard shows."""
    columns = _columns_of_searches(dashboard, objects)
    attributes = dashboard["attributes"]
    panels = json.loads(attributes["panelsJSON"])
    controls = _in_order(attributes["controlGroupInput"])
    below = 40 + (_CONTROL if controls else 0)
    height = below + _MARGIN + _ROW * max(panel["gridData"]["y"] + panel["gridData"]["h"] for panel in panels)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + 2 * _MARGIN} {height}" role="img">',
        f"<title>{escape(attributes['title'])}: layout, with made-up figures</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH + 2 * _MARGIN}" height="{height}"/>',
        f'<text class="title" x="{_MARGIN}" y="25" style="font-size:17px">{escape(attributes["title"])}</text>',
        _text(_WIDTH + _MARGIN, 25, f"{attributes['timeFrom']} → {attributes['timeTo']}", "small", anchor="end"),
        *_controls(controls),
        *(line for panel in panels for line in _panel(panel, below, columns.get(panel["panelIndex"], []))),
        "</svg>",
    ]
    return "\n".join(drawn) + "\n"


def _columns_of_searches(dashboard: Json, objects: Iterable[Json]) -> dict[str, list[str]]:
    """Return panel → the headings of the table of documents that it shows."""
    shown = {each["id"]: each["attributes"]["columns"] for each in objects if each["type"] == "search"}
    return {
        reference["name"].partition(":")[0]: ["Time", *shown[reference["id"]]]
        for reference in dashboard["references"]
        if reference["type"] == "search"
    }


def _in_order(group: Json) -> list[str]:
    panels = json.loads(group["panelsJSON"]).values()
    return [panel["explicitInput"]["title"] for panel in sorted(panels, key=lambda panel: panel["order"])]


def _controls(titles: list[str]) -> Iterator[str]:
    width = _WIDTH / max(1, len(titles))
    for position, title in enumerate(titles):
        left = _MARGIN + position * width
        yield f'<rect class="panel" x="{left:.0f}" y="40" width="{width - _GAP:.0f}" height="30" rx="4"/>'
        yield _text(left + 9, 59, title, "head")
        if width > 170:  # noqa: PLR2004 - pixels, below which the word would run into the title
            yield _text(left + width - 16, 59, "Any", "small", anchor="end")


def _panel(panel: Json, below: int, columns: list[str]) -> Iterator[str]:
    grid = panel["gridData"]
    left, top = _MARGIN + grid["x"] * _COLUMN, below + grid["y"] * _ROW
    width, height = grid["w"] * _COLUMN - _GAP, grid["h"] * _ROW - _GAP
    yield f'<g transform="translate({left},{top})">'
    yield f'<rect class="panel" width="{width}" height="{height}" rx="4"/>'
    if panel["title"] and not panel["embeddableConfig"].get("hidePanelTitles"):
        yield _text(10, 19, panel["title"], "title")
    chance = random.Random(panel["panelIndex"])  # noqa: S311 - the same drawing every time
    yield from _table(columns, width, height) if columns else _inside(panel, width, height, chance)
    yield "</g>"


def _inside(panel: Json, width: int, height: int, chance: random.Random) -> Iterator[str]:
    config = panel["embeddableConfig"]
    if panel["type"] == "visualization":
        return _markdown(config["savedVis"]["params"]["markdown"])
    state = config["attributes"]["state"]
    (layer,) = state["datasourceStates"]["formBased"]["layers"].values()
    draw = {"lnsMetric": _metric, "lnsDatatable": _datatable, "lnsPie": _donut, "lnsXY": _chart}
    return draw[config["attributes"]["visualizationType"]](
        state["visualization"], layer["columns"], width, height, chance
    )


def _markdown(text: str) -> Iterator[str]:
    plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).replace("*", "").replace("`", "")
    for number, line in enumerate(line for line in plain.split("\n") if line):
        yield _text(10, 22 + 20 * number, line, "title" if number == 0 else "small")


def _metric(state: Json, columns: Json, width: int, height: int, chance: random.Random) -> Iterator[str]:
    column = columns[state["metricAccessor"]]
    shown = f"{chance.uniform(1, 9):.1f}%" if column["operationType"] == "formula" else f"{chance.randrange(3, 900)}"
    if column["dataType"] == "date":
        shown = "12:04:31"
    yield _text(10, 22, column["label"], "title")
    color = f' style="fill:{state["color"]}"' if "color" in state else ""
    yield f'<text class="big" x="{width - 12}" y="{height - 12}" text-anchor="end"{color}>{shown}</text>'


def _datatable(state: Json, columns: Json, width: int, height: int, _: random.Random) -> Iterator[str]:
    return _table([columns[each["columnId"]]["label"] for each in state["columns"]], width, height)


def _table(headings: list[str], width: int, height: int) -> Iterator[str]:
    each = (width - 20) / len(headings)
    for position, heading in enumerate(headings):
        yield _text(10 + position * each, 42, _fitting(heading, each), "head")
    for number, y in enumerate(range(62, height - 6, 19)):
        yield f'<line class="line" x1="8" x2="{width - 8}" y1="{y - 14}" y2="{y - 14}"/>'
        for position in range(len(headings)):
            bar, x = each * (0.62 - 0.11 * ((number + 2 * position) % 4)), 10 + position * each
            yield f'<rect x="{x:.0f}" y="{y - 8}" width="{bar:.0f}" height="6" rx="3" fill="#d9e1ee"/>'


def _fitting(heading: str, width: float) -> str:
    """Return a heading, without its beginning where there is no room for that."""
    letters = int(width / _LETTER)
    return heading if len(heading) <= letters else f"…{heading[-letters + 1 :]}"


def _donut(_: Json, columns: Json, width: int, height: int, chance: random.Random) -> Iterator[str]:
    radius = min(width, height - 30) / 2 - 12
    start = 0.0
    for position in range(5):
        part = (1 - start) if position == 4 else (1 - start) * chance.uniform(0.3, 0.55)  # noqa: PLR2004 - the last
        circle = f'r="{radius - 12:.0f}" fill="none" stroke="{_COLORS[position + 2]}" stroke-width="24"'
        yield (
            f'<circle cx="{width / 2:.0f}" cy="{height / 2 + 10:.0f}" {circle} pathLength="1" '
            f'stroke-dasharray="{part:.3f} 1" stroke-dashoffset="{-start:.3f}"/>'
        )
        start += part
    yield _text(10, height - 8, columns["by"]["label"], "small")


def _chart(state: Json, columns: Json, width: int, height: int, chance: random.Random) -> Iterator[str]:
    layer = state["layers"][0]
    legend = [columns[name]["label"] for name in layer["accessors"]]
    if "splitAccessor" in layer:
        legend = [columns["by"]["label"]] + ["…"] * (min(columns["by"]["params"]["size"], 5) - 1)
    bottom, top, right = height - 24, 34, width - 120
    yield f'<line class="line" x1="36" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    draw = _bars if layer["seriesType"] == "bar_stacked" else _lines
    yield from draw(len(legend), (36, right), (top, bottom), chance)
    for position, label in enumerate(legend[:6]):
        y = 40 + 18 * position
        yield f'<circle cx="{right + 14}" cy="{y - 4}" r="4" fill="{_COLORS[position]}"/>'
        yield _text(right + 23, y, label if len(label) < 16 else f"{label[:14]}…", "small")  # noqa: PLR2004 - letters


def _bars(series: int, across: tuple[int, int], down: tuple[int, int], chance: random.Random) -> Iterator[str]:
    step = (across[1] - across[0]) / 28
    for number in range(28):
        y = float(down[1])
        for position in range(series):
            high = chance.uniform(0.2, 1) * (down[1] - down[0]) / series * (1 if position == 0 else 0.6)
            y -= high
            x = across[0] + number * step
            yield (
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{step * 0.78:.1f}" height="{high:.1f}" '
                f'fill="{_COLORS[position]}"/>'
            )


def _lines(series: int, across: tuple[int, int], down: tuple[int, int], chance: random.Random) -> Iterator[str]:
    for position in range(series):
        level = chance.uniform(0.2, 0.8)
        points = []
        for number in range(41):
            level = min(0.95, max(0.05, level + chance.uniform(-0.12, 0.12)))
            x = across[0] + (across[1] - across[0]) * number / 40
            points.append(f"{x:.1f},{down[1] - (down[1] - down[0]) * level:.1f}")
        yield f'<polyline points="{" ".join(points)}" fill="none" stroke="{_COLORS[position]}" stroke-width="2"/>'


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
