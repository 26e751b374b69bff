"""Saved objects as Kibana imports them, at the lowest version that 8.19 writes: 9.x migrates them as it reads them."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

from kibana import lens
from kibana.fields import SourceWrong, is_aggregatable, resolved

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kibana.fields import Fields
    from kibana.sources import Control, Dashboard, DataView, Filter, Panel, Search, Sources

Json = dict[str, Any]

PREFIX: Final = "klyra_audit"  # of ids: the name of the integration package, which wants it so
_NAMESPACE: Final = uuid.UUID("6d1a7c6e-0b0f-4b0e-9a33-6f5b6e0c9d17")  # of ids inside dashboards, drawn once
_CORE_VERSION: Final = "8.8.0"
_VERSIONS: Final = {"index-pattern": "8.0.0", "search": "10.3.0", "dashboard": "10.2.0"}
_INDEX: Final = "kibanaSavedObjectMeta.searchSourceJSON.index"
_FILTER_INDEX: Final = "kibanaSavedObjectMeta.searchSourceJSON.filter[0].meta.index"
_REFRESH_MS: Final = 60_000  # once somebody lets a dashboard refresh itself
_SEARCH: Final = "search-"  # a search and a data view may share a name
_DRILLDOWN: Final = "DASHBOARD_TO_DASHBOARD_DRILLDOWN"


def object_id(name: str) -> str:
    """Return the id of an object by its name in the sources: the same for ever, so that an import replaces it."""
    return f"{PREFIX}-{name}"


def saved_objects(sources: Sources, mappings: dict[str, Fields]) -> list[Json]:
    """Return everything to import: what is referred to before what refers to it.

    Raises:
        SourceWrong: a source names what is not there.
    """
    found = [_data_view(name, view) for name, view in sources.data_views.items()]
    for name, search in sources.searches.items():
        found.append(_search(f"{_SEARCH}{name}", search, _fields(sources, mappings, search.data_view)))
    return found + [_Maker(sources, mappings, dashboard).made() for dashboard in sources.dashboards.values()]


def ndjson(objects: Iterable[Json]) -> bytes:
    """Return the file to import: one object a line, the same bytes for the same objects."""
    return "".join(f"{dense(each)}\n" for each in objects).encode()


def dense(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return JSON without a byte too many, members in alphabetical order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _fields(sources: Sources, mappings: dict[str, Fields], data_view: str) -> Fields:
    if data_view not in sources.data_views:
        raise SourceWrong(f"there is no data view {data_view}")
    return mappings[sources.data_views[data_view].stream]


def _object(kind: str, name: str, attributes: Json, references: list[dict[str, str]]) -> Json:
    return {
        "type": kind,
        "id": object_id(name),
        "attributes": attributes,
        "references": references,
        "coreMigrationVersion": _CORE_VERSION,
        "typeMigrationVersion": _VERSIONS[kind],
        "managed": False,
    }


def _data_view(name: str, view: DataView) -> Json:
    formats = {
        field: {"id": "duration", "params": {"inputFormat": unit, "outputFormat": "humanizePrecise"}}
        for unit, group in (("seconds", view.seconds), ("milliseconds", view.milliseconds))
        for field in group
    }
    attributes = {
        "title": view.title,
        "name": view.name,
        "timeFieldName": "@timestamp",
        "allowNoIndex": True,
        "fields": "[]",
        "fieldAttrs": "{}",
        "fieldFormatMap": dense(formats),
        "runtimeFieldMap": "{}",
        "sourceFilters": "[]",
    }
    return _object("index-pattern", name, attributes, [])


def _search(name: str, search: Search, fields: Fields) -> Json:
    for column in search.columns:
        resolved(fields, column)
    source = {
        "query": {"language": "kuery", "query": ""},
        "filter": [_filter(search.filter, fields)],
        "indexRefName": _INDEX,
    }
    attributes = {
        "title": f"[Klyra] {search.title}",
        "description": search.description,
        "columns": list(search.columns),
        "sort": [["@timestamp", "desc"]],
        "grid": {},
        "hideChart": False,
        "isTextBasedQuery": False,
        "timeRestore": False,
        "kibanaSavedObjectMeta": {"searchSourceJSON": dense(source)},
    }
    view = object_id(search.data_view)
    return _object("search", name, attributes, [_to("index-pattern", view, each) for each in (_INDEX, _FILTER_INDEX)])


def _to(kind: str, target: str, name: str) -> dict[str, str]:
    return {"id": target, "name": name, "type": kind}


def _filter(about: Filter, fields: Fields) -> Json:
    """Return a filter pill: it stands under the search bar, where it can be seen and taken away."""
    resolved(fields, about.field)
    meta: Json = {
        "alias": None,
        "disabled": False,
        "negate": False,
        "key": about.field,
        "indexRefName": _FILTER_INDEX,
    }
    if not about.values:
        meta |= {"type": "exists", "value": "exists"}
        query: Json = {"exists": {"field": about.field}}
    elif len(about.values) == 1:
        meta |= {"type": "phrase", "params": {"query": about.values[0]}}
        query = {"match_phrase": {about.field: about.values[0]}}
    else:
        meta |= {"type": "phrases", "params": list(about.values), "value": ", ".join(about.values)}
        each = [{"match_phrase": {about.field: value}} for value in about.values]
        query = {"bool": {"should": each, "minimum_should_match": 1}}
    return {"$state": {"store": "appState"}, "meta": meta, "query": query}


class _Maker:
    """Makes one dashboard and collects what it refers to."""

    def __init__(self, sources: Sources, mappings: dict[str, Fields], dashboard: Dashboard) -> None:
        self._sources = sources
        self._mappings = mappings
        self._dashboard = dashboard
        self._fields = _fields(sources, mappings, dashboard.data_view)
        self._view = object_id(dashboard.data_view)
        self._references = [_to("index-pattern", self._view, _FILTER_INDEX)]

    def made(self) -> Json:
        """Return the saved object."""
        dashboard = self._dashboard
        controls = self._controls()
        panels = [self._panel(panel) for panel in dashboard.panels]
        source = {
            "query": {"language": "kuery", "query": ""},
            "filter": [_filter(dashboard.filter, self._fields)],
        }
        attributes = {
            "title": f"[Klyra] {dashboard.title}",
            "description": dashboard.description,
            "version": 1,
            "timeRestore": True,
            "timeFrom": dashboard.time[0],
            "timeTo": dashboard.time[1],
            "refreshInterval": {
                "pause": not dashboard.refresh_seconds,
                "value": dashboard.refresh_seconds * 1000 or _REFRESH_MS,
            },
            "optionsJSON": dense(_OPTIONS),
            "panelsJSON": dense(panels),
            "controlGroupInput": controls,
            "kibanaSavedObjectMeta": {"searchSourceJSON": dense(source)},
        }
        return _object("dashboard", dashboard.name, attributes, self._references)

    def _id(self, *parts: object) -> str:
        return str(uuid.uuid5(_NAMESPACE, "/".join(map(str, (self._dashboard.name, *parts)))))

    def _controls(self) -> Json:
        panels = {}
        for order, control in enumerate(self._dashboard.controls):
            control_id = self._id("control", control.field)
            panels[control_id] = self._list(control, control_id, order)
            self._references.append(_to("index-pattern", self._view, f"controlGroup_{control_id}:optionsListDataView"))
        if self._dashboard.time_slider:
            slider_id = self._id("time slider")
            panels[slider_id] = {
                "type": "timeSlider",
                "order": len(panels),
                "width": "large",
                "grow": True,
                "explicitInput": {"id": slider_id, "title": "Time slider", "enhancements": {}},
            }
        return {
            "controlStyle": "oneLine",
            "chainingSystem": "HIERARCHICAL",
            "showApplySelections": False,
            "ignoreParentSettingsJSON": dense(_IGNORE_NOTHING),
            "panelsJSON": dense(panels),
        }

    def _list(self, control: Control, control_id: str, order: int) -> Json:
        if not is_aggregatable(self._fields, control.field):
            raise SourceWrong(f"values of {control.field} cannot be listed")
        return {
            "type": "optionsListControl",
            "order": order,
            "width": "medium",
            "grow": True,
            "explicitInput": {
                "id": control_id,
                "fieldName": control.field,
                "title": control.title,
                "dataViewId": self._view,
                "searchTechnique": "prefix" if resolved(self._fields, control.field)["type"] == "ip" else "wildcard",
                "selectedOptions": [],
                "sort": {"by": "_count", "direction": "desc"},
                "enhancements": {},
            },
        }

    def _panel(self, panel: Panel) -> Json:
        panel_id = self._id("panel", panel.number)
        made = {
            "panelIndex": panel_id,
            "gridData": {"x": panel.x, "y": panel.y, "w": panel.width, "h": panel.height, "i": panel_id},
            "title": panel.title,
        }
        if panel.kind == "text":
            return made | {"type": "visualization", "embeddableConfig": _text(panel.text)}
        if panel.kind == "search":
            return made | self._search_panel(panel, panel_id)
        return made | {"type": "lens", "embeddableConfig": self._lens(panel, panel_id)}

    def _search_panel(self, panel: Panel, panel_id: str) -> Json:
        if panel.search not in self._sources.searches:
            raise SourceWrong(f"there is no search {panel.search}")
        name = f"panel_{panel_id}"
        self._references.append(_to("search", object_id(f"{_SEARCH}{panel.search}"), f"{panel_id}:{name}"))
        return {"type": "search", "panelRefName": name, "embeddableConfig": {"enhancements": {}}}

    def _lens(self, panel: Panel, panel_id: str) -> Json:
        data_view = panel.data_view or self._dashboard.data_view
        layer = lens.Layer(
            layer_id=self._id("layer", panel.number),
            data_view_id=object_id(data_view),
            fields=_fields(self._sources, self._mappings, data_view),
            foreign=data_view != self._dashboard.data_view,
        )
        inner = lens.reference(layer)
        self._references.append(inner | {"name": f"{panel_id}:{inner['name']}"})
        return {
            "attributes": lens.attributes(panel, layer),
            "enhancements": self._enhancements(panel, panel_id),
            "hidePanelTitles": panel.kind == "metric",  # it shows its own label
        }

    def _enhancements(self, panel: Panel, panel_id: str) -> Json:
        if panel.drilldown is None:
            return {}
        if panel.drilldown.to not in self._sources.dashboards:
            raise SourceWrong(f"there is no dashboard {panel.drilldown.to}")
        event_id = self._id("drilldown", panel.number)
        name = f"{panel_id}:drilldown:{_DRILLDOWN}:{event_id}:dashboardId"
        self._references.append(_to("dashboard", object_id(panel.drilldown.to), name))
        config = {"useCurrentFilters": True, "useCurrentDateRange": True, "openInNewTab": False}
        action = {"factoryId": _DRILLDOWN, "name": panel.drilldown.name, "config": config}
        event = {"eventId": event_id, "triggers": ["FILTER_TRIGGER"], "action": action}
        return {"dynamicActions": {"events": [event]}}


_OPTIONS: Final = {
    "useMargins": True,
    "syncColors": False,
    "syncCursor": True,
    "syncTooltips": False,
    "hidePanelTitles": False,
}
_IGNORE_NOTHING: Final = {
    "ignoreFilters": False,
    "ignoreQuery": False,
    "ignoreTimerange": False,
    "ignoreValidations": False,
}


def _text(markdown: str) -> Json:
    search = {"query": {"language": "kuery", "query": ""}, "filter": []}
    visualization = {
        "title": "",
        "description": "",
        "type": "markdown",
        "params": {"fontSize": 12, "openLinksInNewTab": False, "markdown": markdown.strip()},
        "uiState": {},
        "data": {"aggs": [], "searchSource": search},
    }
    return {"savedVis": visualization, "enhancements": {}, "hidePanelTitles": True}
