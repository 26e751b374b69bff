"""What is wrong with saved objects or an integration package, by the rules that Elastic's tools check and more.

The first list is what Elastic's package validator refuses; the second what it does not notice and Kibana shows as an
empty panel.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from kibana import kql
from kibana.fields import RECORDS, Fields, SourceWrong, is_aggregatable, is_searchable, resolved

Json = dict[str, Any]

NEWEST = {"index-pattern": (8, 0), "search": (10, 5), "dashboard": (10, 2)}  # that Kibana 8.19 reads
VISUALIZATIONS = {"lnsXY", "lnsMetric", "lnsPie", "lnsDatatable"}
FIELD_TYPES = {
    *("keyword", "constant_keyword", "ip", "date", "date_nanos", "long", "integer", "double", "boolean"),
    *("flattened", "alias"),
}
PHASES = {
    "hot": {"rollover", "set_priority", "forcemerge", "readonly"},
    "warm": {"set_priority", "forcemerge", "readonly", "allocate", "migrate"},
    "cold": {"set_priority", "readonly", "allocate", "migrate"},
    "delete": {"delete", "wait_for_snapshot"},
}
PACKAGE_PATHS = re.compile(
    r"manifest\.yml|changelog\.yml|docs/README\.md|img/[\w-]+\.svg"
    r"|kibana/(dashboard|search|index_pattern)/klyra_audit-[\w-]+\.json"
    r"|data_stream/[a-z]+/(manifest\.yml|fields/[\w-]+\.yml|elasticsearch/ilm/[a-z]+\.json)"
)


def faults(objects: list[Json], mappings: dict[str, Fields]) -> list[str]:
    """Return one sentence for each fault of a bundle."""
    return sorted(set(_Bundle(objects, mappings).faults()))


def package_faults(members: dict[str, bytes], read_yaml: Any, mappings: dict[str, Fields]) -> list[str]:
    """Return one sentence for each fault of an integration package."""
    return sorted(set(_package(members, read_yaml, mappings)))


class _Bundle:
    def __init__(self, objects: list[Json], mappings: dict[str, Fields]) -> None:
        self.objects = objects
        self.present = {(each["type"], each["id"]) for each in objects}
        self.fields = {
            each["id"]: mappings[each["id"].partition("-")[2]] for each in objects if each["type"] == "index-pattern"
        }

    def faults(self) -> Iterator[str]:
        for (kind, name), times in Counter((each["type"], each["id"]) for each in self.objects).items():
            if times > 1:
                yield f"{kind} {name} is there {times} times"
        for each in self.objects:
            where = each["id"]
            yield from (f"{where}: {fault}" for fault in self._of_any(each))
            of_kind = {"index-pattern": self._data_view, "search": self._search, "dashboard": self._dashboard}
            try:
                yield from (f"{where}: {fault}" for fault in of_kind[each["type"]](each))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                yield f"{where}: cannot be read: {error!r}"

    def _of_any(self, each: Json) -> Iterator[str]:
        version = tuple(map(int, each.get("typeMigrationVersion", "99.0").split(".")[:2]))
        if version > NEWEST[each["type"]] or each.get("coreMigrationVersion") != "8.8.0":
            yield f"is of version {version}, which Kibana 8.19 does not read"
        names = [reference["name"] for reference in each["references"]]
        if len(names) != len(set(names)):
            yield "has a reference twice"
        for reference in each["references"]:
            if (reference["type"], reference["id"]) not in self.present:
                yield f"refers to {reference['type']} {reference['id']}, which is not in the bundle"
        yield from _unreadable(each["attributes"])

    def _data_view(self, each: Json) -> Iterator[str]:
        time = each["attributes"].get("timeFieldName")
        if time is None or resolved(self.fields[each["id"]], time)["type"] not in ("date", "date_nanos"):
            yield f"{time} is no time"

    def _search(self, each: Json) -> Iterator[str]:
        attributes = each["attributes"]
        source = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
        references = {reference["name"]: reference["id"] for reference in each["references"]}
        if (index := source.get("indexRefName")) not in references:
            yield "does not say what it searches"
            return
        fields = self.fields.get(references[index], {})
        yield from (f"column {name} is no field" for name in attributes["columns"] if not _there(fields, name))
        for name, _ in attributes["sort"]:
            if not _countable(fields, name):
                yield f"cannot be sorted by {name}"
        yield from self._source(source, fields, references)
        yield from _orphans(references, {index, *_filter_references(source)})

    def _source(self, source: Json, fields: Fields, references: dict[str, str]) -> Iterator[str]:
        if not source["filter"]:
            yield "has a query and no filter" if source["query"]["query"] else "has no filter"
        for name in _filter_references(source):
            if name not in references:
                yield f"a filter's {name} is no reference"
        for each in source["filter"]:
            named = kql.fields_of(_plain(each["query"])) | {each["meta"]["key"]}
            yield from (f"a filter is about {name}, no field" for name in named if not _there(fields, name))
        yield from _query_faults(source["query"]["query"], fields)

    def _dashboard(self, each: Json) -> Iterator[str]:
        attributes = each["attributes"]
        references = {reference["name"]: reference["id"] for reference in each["references"]}
        source = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
        own = references.get(next(_filter_references(source), ""), "")
        used = set(_filter_references(source))
        yield from self._source(source, self.fields.get(own, {}), references)
        panels = json.loads(attributes["panelsJSON"])
        yield from _layout_faults(panels)
        for panel in panels:
            for name, fault in self._panel(panel, references):
                used.add(name)
                if fault:
                    yield f"{panel.get('title') or panel['type']}: {fault}"
        for name, fault in self._controls(attributes["controlGroupInput"], references):
            used.add(name)
            if fault:
                yield fault
        yield from _orphans(references, used - {""})

    def _controls(self, group: Json, references: dict[str, str]) -> Iterator[tuple[str, str]]:
        controls = json.loads(group["panelsJSON"])
        if sum(each["type"] == "timeSlider" for each in controls.values()) > 1:
            yield "", "there are two time sliders"
        if sorted(each["order"] for each in controls.values()) != list(range(len(controls))):
            yield "", "controls are in no order"
        for name, each in controls.items():
            given = each["explicitInput"]
            if given["id"] != name:
                yield "", f"control {given['title']} has two ids"
            if each["type"] == "timeSlider":
                continue
            reference = f"controlGroup_{name}:optionsListDataView"
            view = references.get(reference)
            yield reference, "" if view == given["dataViewId"] else f"control {given['title']} has no data view"
            if not _countable(self.fields.get(view or "", {}), given["fieldName"]):
                yield "", f"control {given['title']}: {given['fieldName']} cannot be listed"

    def _panel(self, panel: Json, references: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Yield each reference that a panel uses, with what is wrong there or nothing."""
        number = panel["panelIndex"]
        if panel["gridData"]["i"] != number:
            yield "", "has two numbers"
        config = panel["embeddableConfig"]
        for event in config.get("enhancements", {}).get("dynamicActions", {}).get("events", []):
            name = f"{number}:drilldown:{event['action']['factoryId']}:{event['eventId']}:dashboardId"
            yield name, "" if name in references else "leads nowhere"
        if panel["type"] == "search":
            name = f"{number}:{panel.get('panelRefName')}"
            yield name, "" if name in references else "refers to no search"
        elif panel["type"] == "visualization":
            legacy = config.get("savedVis", {}).get("type") != "markdown"
            yield "", "is a legacy visualization" if legacy else ""
        elif panel["type"] == "lens" and "attributes" in config:
            yield from self._lens(number, config["attributes"], references)
        else:
            yield "", f"{panel['type']} is not there by value"

    def _lens(self, number: str, attributes: Json, references: dict[str, str]) -> Iterator[tuple[str, str]]:
        state = attributes["state"]
        if attributes["visualizationType"] not in VISUALIZATIONS:
            yield "", f"{attributes['visualizationType']} is no visualization"
        inner = {reference["name"]: reference["id"] for reference in attributes["references"]}
        layers = state["datasourceStates"]["formBased"]["layers"]
        names = {f"indexpattern-datasource-layer-{layer}" for layer in layers}
        if names != inner.keys():
            yield "", "layers and references differ"
        for name, view in inner.items():
            outer = f"{number}:{name}"
            fault = "" if references.get(outer) == view else "its data view is another than the dashboard says"
            yield outer, fault
        for layer, content in layers.items():
            fields = self.fields.get(inner.get(f"indexpattern-datasource-layer-{layer}", ""), {})
            yield from (("", fault) for fault in _query_faults(state["query"]["query"], fields))
            yield from (("", fault) for fault in _layer_faults(content, fields))
            yield from (("", fault) for fault in _drawing_faults(attributes, layer, content["columns"]))


def _layout_faults(panels: list[Json]) -> Iterator[str]:
    numbers = [panel["panelIndex"] for panel in panels]
    if len(numbers) != len(set(numbers)):
        yield "two panels have one number"
    for panel in panels:
        grid = panel["gridData"]
        if grid["x"] < 0 or grid["w"] < 1 or grid["h"] < 1 or grid["x"] + grid["w"] > 48:
            yield f"{panel['title']} is not within the 48 columns"
    for one, other in itertools.combinations([panel["gridData"] for panel in panels], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        if not apart:
            yield "two panels overlap"


def _layer_faults(layer: Json, fields: Fields) -> Iterator[str]:
    columns = layer["columns"]
    if sorted(columns) != sorted(layer["columnOrder"]):
        yield "columns and their order differ"
    for name, column in columns.items():
        source = column.get("sourceField")
        if source not in (None, RECORDS) and not _countable(fields, source):
            yield f"{source} cannot be counted"
        yield from _query_faults(column.get("filter", {}).get("query", ""), fields)
        for needed in (*column.get("references", []), column["params"].get("orderBy", {}).get("columnId")):
            if needed is not None and needed not in columns:
                yield f"{name} needs {needed}, which is no column"
        by = columns.get(column["params"].get("orderBy", {}).get("columnId"), {})
        if by.get("operationType") in ("last_value", "formula"):
            yield f"{name} cannot be in the order of {by['label']}"


def _drawing_faults(attributes: Json, layer_id: str, columns: Json) -> Iterator[str]:
    drawing = attributes["state"]["visualization"]
    layers = drawing.get("layers", [drawing])
    if [layer.get("layerId") for layer in layers] != [layer_id]:
        yield "draws another layer"
    needed = {"lnsXY": {"xAccessor", "accessors", "seriesType"}, "lnsMetric": {"metricAccessor"}}
    needed |= {"lnsPie": {"primaryGroups", "metrics"}, "lnsDatatable": {"columns"}}
    for layer in layers:
        if missing := needed.get(attributes["visualizationType"], set()) - layer.keys():
            yield f"would be empty: it has no {', '.join(sorted(missing))}"
        for name in _accessors(layer):
            if name not in columns:
                yield f"draws {name}, which is no column"
    if attributes["visualizationType"] == "lnsXY" and not {"legend", "fittingFunction", "preferredSeriesType"} <= (
        drawing.keys()
    ):
        yield "would be empty: it does not say how to draw"


def _accessors(layer: Json) -> Iterator[str]:
    for name in ("metricAccessor", "xAccessor", "splitAccessor"):
        if name in layer:
            yield layer[name]
    for name in ("accessors", "metrics", "primaryGroups"):
        yield from layer.get(name, [])
    yield from (column["columnId"] for column in layer.get("columns", []))


def _query_faults(text: str, fields: Fields) -> Iterator[str]:
    try:
        named = kql.fields_of(kql.compiled(text))
    except SourceWrong as error:
        yield f"its query is none: {error}"
        return
    for name in named:
        if not _there(fields, name) or not is_searchable(fields, name):
            yield f"its query names {name}, which cannot be searched"


def _filter_references(source: Json) -> Iterator[str]:
    return (each["meta"].get("indexRefName", "") for each in source.get("filter", []))


def _plain(query: Json) -> Json:
    return json.loads(json.dumps(query).replace("match_phrase", "term"))


def _orphans(references: dict[str, str], used: set[str]) -> Iterator[str]:
    yield from (f"nothing uses the reference {name}" for name in references.keys() - used)


def _unreadable(value: Any, name: str = "") -> Iterator[str]:
    """Yield every member that should hold JSON as text and does not."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _unreadable(inner, key)
    elif name.endswith("JSON"):
        if not isinstance(value, str):
            yield f"{name} is no text"
        else:
            try:
                json.loads(value)
            except ValueError:
                yield f"{name} is not JSON"
    if name.endswith("JSON") and isinstance(value, dict | list):
        yield f"{name} is no text"


def _there(fields: Fields, name: str) -> bool:
    return name in fields


def _countable(fields: Fields, name: str) -> bool:
    return name in fields and is_aggregatable(fields, name)


def _package(members: dict[str, bytes], read_yaml: Any, mappings: dict[str, Fields]) -> Iterator[str]:
    yield from (f"{name} has no place in a package" for name in members if not PACKAGE_PATHS.fullmatch(name))
    missing = {"manifest.yml", "changelog.yml", "docs/README.md"} - members.keys()
    yield from (f"{name} is missing" for name in missing)
    if missing:
        return
    manifest = read_yaml(members["manifest.yml"])
    yield from _manifest(manifest, members)
    if read_yaml(members["changelog.yml"])[0]["version"] != manifest["version"]:
        yield "the changelog does not begin with the version"
    objects: list[Json] = []
    yield from _files(members, objects)
    yield from faults(objects, mappings)
    for folder in {name.split("/")[1] for name in members if name.startswith("data_stream/")}:
        yield from _data_stream(f"data_stream/{folder}", folder, manifest["name"], members, read_yaml)


def _manifest(manifest: Json, members: dict[str, bytes]) -> Iterator[str]:
    if not all(manifest.get(name) for name in ("format_version", "name", "title", "version", "type", "owner")):
        yield "the manifest is not whole"
    if "policy_templates" in manifest:
        yield "the manifest has policy templates without an input"
    for icon in manifest.get("icons", []):
        if icon["src"].removeprefix("/") not in members:
            yield f"{icon['src']} is missing"


def _files(members: dict[str, bytes], objects: list[Json]) -> Iterator[str]:
    """Read the saved objects into `objects`; yield what is wrong with their files."""
    for name, content in members.items():
        if not name.startswith("kibana/"):
            continue
        try:
            objects.append(json.loads(content))
        except ValueError:
            yield f"{name} is not JSON"
            continue
        if objects[-1]["id"] != name.rpartition("/")[2].removesuffix(".json"):
            yield f"{name} has another id than its name"


def _data_stream(path: str, folder: str, package: str, members: dict[str, bytes], read_yaml: Any) -> Iterator[str]:
    manifest = read_yaml(members[f"{path}/manifest.yml"])
    prefix = f"logs-{package}.{folder}-"
    policy = manifest["ilm_policy"]
    file = f"{path}/elasticsearch/ilm/{policy.removeprefix(prefix)}.json"
    if not policy.startswith(prefix) or file not in members:
        yield f"{path}: the lifecycle policy {policy} is not there"
    else:
        yield from (f"{file}: {fault}" for fault in _lifecycle(json.loads(members[file])))
    if f"{path}/fields/base-fields.yml" not in members:
        yield f"{path}: base-fields.yml is missing"
    for name, content in members.items():
        if name.startswith(f"{path}/fields/"):
            for field in read_yaml(content):
                if field.get("type") not in FIELD_TYPES:
                    yield f"{name}: {field['name']} has the unknown type {field.get('type')}"


def _lifecycle(body: Json) -> Iterator[str]:
    if body.keys() != {"policy"} or body["policy"].keys() - {"phases", "_meta"}:
        yield "is no policy"
        return
    for phase, content in body["policy"]["phases"].items():
        if phase not in PHASES or content.keys() - {"min_age", "actions"}:
            yield f"{phase} is no phase"
        elif unknown := content["actions"].keys() - PHASES[phase]:
            yield f"{phase} has no action {', '.join(sorted(unknown))}"
        rollover = content.get("actions", {}).get("rollover", {})
        if unknown := rollover.keys() - {"max_age", "max_primary_shard_size", "max_docs", "min_docs"}:
            yield f"rollover has no {', '.join(sorted(unknown))}"
