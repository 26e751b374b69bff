"""The sources as values: what each file under `dashboards/kibana/sources` says, checked for its form."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar

from kibana.fields import SourceWrong

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WIDTH: Final = 48  # columns of Kibana's grid
DASHBOARDS: Final = ("overview", "moderation", "administration", "integrity")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataView:
    """Streams that are searched together.

    Attributes:
        name, title: for people; the index pattern.
        stream: whose mapping their documents have.
        seconds, milliseconds: number fields that are shown as durations.
    """

    name: str
    title: str
    stream: str
    seconds: tuple[str, ...] = ()
    milliseconds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """What a dashboard or a saved search is about: a field that must be there, or one of some values."""

    field: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A table of documents, newest first."""

    title: str
    description: str
    data_view: str
    columns: tuple[str, ...]
    filter: Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure.

    Attributes:
        of: count, unique_count, sum, max, median, percentile, last_value, or ratio (`kql` over `over`).
        label: for people.
        field: of the documents; empty for count and ratio.
        kql: which documents count; empty for all.
        within: only the end of the time shown, such as `5m`.
    """

    of: str
    label: str
    field: str = ""
    kql: str = ""
    over: str = ""
    within: str = ""
    percentile: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """By which values of a field something is split."""

    field: str
    size: int
    label: str = ""
    other: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drilldown:
    """Where a click on a value can lead, with that value as a filter."""

    to: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One rectangle of a dashboard; x, y, height and number come from its place among the rows."""

    kind: str
    width: int
    title: str = ""
    text: str = ""
    search: str = ""
    data_view: str = ""
    kql: str = ""
    by: Group | None = None
    then: Group | None = None
    metrics: tuple[Metric, ...] = ()
    order: int = 0
    color: str = ""
    colors: Mapping[str, str] | None = None
    drilldown: Drilldown | None = None
    x: int = 0
    y: int = 0
    height: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A list of a field's values above a dashboard, to choose from."""

    field: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard; `time` is what it shows when it is opened."""

    name: str
    title: str
    description: str
    data_view: str
    time: tuple[str, str]
    filter: Filter
    panels: tuple[Panel, ...]
    controls: tuple[Control, ...]
    time_slider: bool = False
    refresh_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An alert rule: how many documents in a window of time are too many (`above`) or too few (`below`)."""

    name: str
    why: str
    data_view: str
    time_field: str
    kql: str
    every: str
    window: str
    above: int | None = None
    below: int | None = None
    for_each: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What some people may see and do: data views by their name, or `organization` for one organization's own."""

    description: str
    streams: tuple[str, ...]
    features: Mapping[str, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything, by name."""

    data_views: Mapping[str, DataView]
    searches: Mapping[str, Search]
    dashboards: Mapping[str, Dashboard]
    rules: Mapping[str, Rule]
    roles: Mapping[str, Role]


def load(folder: Path) -> Sources:
    """Read the folder.

    Raises:
        SourceWrong: a file says what it cannot say; names the place.
    """
    return Sources(
        data_views=_each(DataView, _read(folder, "data-views")),
        searches=_each(Search, _read(folder, "searches")),
        dashboards={name: _dashboard(name, _read(folder, name)) for name in DASHBOARDS},
        rules=_each(Rule, _read(folder, "rules")),
        roles=_each(Role, _read(folder, "roles")),
    )


def _read(folder: Path, name: str) -> dict[str, Any]:
    return tomllib.loads((folder / f"{name}.toml").read_text())


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


_Value = TypeVar("_Value", bound=_Dataclass)


def _each(kind: type[_Value], table: Mapping[str, Any]) -> dict[str, _Value]:
    return {name: _made(kind, members, name) for name, members in table.items()}


def _made(kind: type[_Value], members: Mapping[str, Any], place: str) -> _Value:
    known = {each.name for each in fields(kind)}
    if unknown := members.keys() - known:
        raise SourceWrong(f"{place}: {', '.join(sorted(unknown))} is not known")
    found: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in members.items()
    }
    if "filter" in found:
        found["filter"] = _filter(found["filter"], place)
    try:
        return kind(**found)
    except TypeError as error:
        raise SourceWrong(f"{place}: {error}") from error


def _filter(members: Mapping[str, Any], place: str) -> Filter:
    if "exists" in members:
        return Filter(members["exists"])
    values = members.get("is_one_of") or [members.get("is")]
    if "field" not in members or None in values:
        raise SourceWrong(f"{place}: a filter is {{exists}}, {{field, is}} or {{field, is_one_of}}")
    return Filter(members["field"], tuple(values))


def _dashboard(name: str, table: dict[str, Any]) -> Dashboard:
    rows = table.pop("row")
    controls = tuple(_made(Control, each, name) for each in table.pop("control", ()))
    return _made(Dashboard, table | {"name": name, "controls": controls, "panels": _placed(rows, name)}, name)


def _placed(rows: list[dict[str, Any]], place: str) -> tuple[Panel, ...]:
    """Return the panels where they stand: rows from top to bottom, each as wide as the grid."""
    placed: list[Panel] = []
    y = 0
    for row in rows:
        x = 0
        for members in row["panel"]:
            panel = _panel(members, place)
            placed.append(replace(panel, x=x, y=y, height=row["height"], number=len(placed)))
            x += panel.width
        if x != WIDTH:
            raise SourceWrong(f"{place}: the row with {row['panel'][-1].get('title')} is {x} wide, not {WIDTH}")
        y += row["height"]
    return tuple(placed)


def _panel(members: dict[str, Any], place: str) -> Panel:
    where = f"{place}: {members.get('title', members.get('kind'))}"
    found = dict(members)
    for name in ("by", "then"):
        if name in found:
            found[name] = _made(Group, found[name], where)
    if "drilldown" in found:
        found["drilldown"] = _made(Drilldown, found["drilldown"], where)
    found["metrics"] = tuple(_made(Metric, each, where) for each in found.get("metrics", ()))
    return _made(Panel, found, where)
