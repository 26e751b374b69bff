"""The Kibana files that are shipped: made from the sources, whole, and right by Elastic's rules and by more of them."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from klyra_audit.catalog import Catalog
from klyra_collector.store.elasticsearch import names
from support import kibana
from support.kibana_faults import faults, package_faults

from kibana.__main__ import generated, same  # isort: skip - the folder of tools is on the path by then
from kibana.fields import Fields, mappings  # isort: skip
from kibana.sources import load  # isort: skip

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]


@pytest.fixture(scope="module")
def fields() -> dict[str, Fields]:
    """The mappings of the streams."""
    return mappings(kibana.ROOT)


def test_what_is_shipped_is_what_the_sources_make() -> None:
    """Nobody edited a generated file, and nobody forgot to make them again: `make dashboards`."""
    assert not [name for name, content in generated(kibana.ROOT).items() if not same(name, content, kibana.ROOT)]


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_same_sources_give_the_same_bytes(seed: str) -> None:
    """Another process, with other hashes, finds nothing to write."""
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(kibana.ROOT / "tools")}
    command = [sys.executable, "-m", "kibana", "--check"]
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_nothing_is_wrong_with_the_saved_objects(fields) -> None:
    """References, fields, columns, layout, versions."""
    assert faults(kibana.objects(), fields) == []


def test_nothing_is_wrong_with_the_integration_package(fields) -> None:
    """The rules of Elastic's package validator, and those that it does not know."""
    assert package_faults(kibana.package(), yaml.safe_load, fields) == []


def test_the_package_has_the_very_objects() -> None:
    """Both ways in bring the same."""
    packed = [json.loads(content) for name, content in kibana.package().items() if name.startswith("kibana/")]
    assert sorted(packed, key=str) == sorted(kibana.objects(), key=str)


def test_data_views_search_our_streams() -> None:
    """The patterns are those of the store."""
    titles = {each["id"]: each["attributes"]["title"] for each in kibana.objects() if each["type"] == "index-pattern"}
    assert titles == {
        "klyra_audit-entries": names.ENTRY_STREAMS,
        "klyra_audit-quarantine": names.QUARANTINE_STREAMS,
        "klyra_audit-health": names.HEALTH_STREAM,
    }


def test_every_event_type_that_a_source_names_is_in_the_catalog() -> None:
    """And every administrative and system type is on the dashboard of administration."""
    sources = load(kibana.ROOT / "dashboards" / "kibana" / "sources")
    types = {each.name: each.group for each in Catalog.load().event_types.values()}
    named = {
        value for each in sources.searches.values() if each.filter.field == "event_type" for value in each.filter.values
    }
    shown = set(sources.dashboards["administration"].filter.values)
    assert named <= types.keys()
    assert shown == {name for name, group in types.items() if group != "moderation"}
    assert set(sources.dashboards["moderation"].filter.values) == types.keys() - shown


def test_the_page_about_kibana_tells_of_all_of_it() -> None:
    """Every rule, role and picture."""
    page = (kibana.ROOT / "docs" / "kibana.md").read_text()
    rules = [rule["name"] for rule in json.loads(kibana.shipped("rules.json")).values()]
    pictures = [f"pictures/kibana-{each['id'].partition('-')[2]}.svg" for each in kibana.dashboards()]
    assert not [name for name in (*rules, *json.loads(kibana.shipped("roles.json")), *pictures) if name not in page]


def dashboard(objects: list[Json], name: str = "overview") -> Json:
    """Return the attributes of a dashboard."""
    return next(
        each["attributes"]
        for each in objects
        if each["id"] == f"klyra_audit-{name}" and "panelsJSON" in each["attributes"]
    )


def changed_panel(objects: list[Json], change: Callable[[Json], None], kind: str = "lnsXY") -> None:
    """Change the first panel of a kind on the overview."""
    attributes = dashboard(objects)
    panels = json.loads(attributes["panelsJSON"])
    change(next(panel for panel in panels if kind in (_visualization(panel), panel["type"])))
    attributes["panelsJSON"] = json.dumps(panels)


def _visualization(panel: Json) -> str:
    return str(panel["embeddableConfig"].get("attributes", {}).get("visualizationType"))


def layer_of(panel: Json) -> Json:
    """Return the only layer of a panel."""
    (layer,) = panel["embeddableConfig"]["attributes"]["state"]["datasourceStates"]["formBased"]["layers"].values()
    return layer


def changed_source(objects: list[Json], **members: Any) -> None:
    """Change what the overview searches."""
    meta = dashboard(objects)["kibanaSavedObjectMeta"]
    meta["searchSourceJSON"] = json.dumps(json.loads(meta["searchSourceJSON"]) | members)


def changed_control(objects: list[Json], **members: Any) -> None:
    """Change the first control of the overview."""
    group = dashboard(objects)["controlGroupInput"]
    panels = json.loads(group["panelsJSON"])
    first = min(panels.values(), key=lambda panel: panel["order"])
    first["explicitInput"] |= members
    group["panelsJSON"] = json.dumps(panels)


def without_reference(objects: list[Json], kind: str) -> None:
    """Take the first reference of a kind from the overview."""
    references = next(each for each in objects if each["attributes"] is dashboard(objects))["references"]
    references.remove(next(each for each in references if each["type"] == kind))


def of_type(objects: list[Json], kind: str) -> Json:
    """Return the first object of a type."""
    return next(each for each in objects if each["type"] == kind)


BROKEN: dict[str, tuple[Callable[[list[Json]], Any], str]] = {
    # what Elastic's validator refuses
    "a search that is not there": (
        lambda objects: objects.remove(next(each for each in objects if each["id"] == "klyra_audit-search-entries")),
        "not in the bundle",
    ),
    "a dashboard without a filter": (lambda objects: changed_source(objects, filter=[]), "has no filter"),
    "a query without a filter": (
        lambda objects: changed_source(objects, filter=[], query={"language": "kuery", "query": "status : failure"}),
        "a query and no filter",
    ),
    "a Lens panel by reference": (
        lambda objects: changed_panel(objects, lambda panel: panel["embeddableConfig"].pop("attributes")),
        "not there by value",
    ),
    "panels that are not JSON": (lambda objects: dashboard(objects).update(panelsJSON="[{"), "is not JSON"),
    "panels that are no text": (lambda objects: dashboard(objects).update(panelsJSON=[]), "is no text"),
    "no panels": (lambda objects: dashboard(objects).pop("panelsJSON"), "cannot be read"),
    "a legacy visualization": (
        lambda objects: changed_panel(
            objects, lambda panel: panel["embeddableConfig"]["savedVis"].update(type="metrics"), "visualization"
        ),
        "legacy visualization",
    ),
    # what it does not notice
    "a panel without its reference": (lambda objects: without_reference(objects, "search"), "refers to no search"),
    "a drill-down without its reference": (lambda objects: without_reference(objects, "dashboard"), "leads nowhere"),
    "a panel that is gone, its reference not": (
        lambda objects: changed_panel(objects, lambda panel: panel.update(type="search", panelRefName="panel_x")),
        "nothing uses the reference",
    ),
    "another data view in a panel": (
        lambda objects: changed_panel(
            objects, lambda panel: panel["embeddableConfig"]["attributes"]["references"][0].update(id="logs-*")
        ),
        "data view is another",
    ),
    "a control of no data view": (lambda objects: changed_control(objects, dataViewId="logs-*"), "has no data view"),
    "a column that does not exist": (
        lambda objects: changed_panel(objects, lambda panel: layer_of(panel)["columns"].pop("metric0")),
        "no column",
    ),
    "a column that is not in the order": (
        lambda objects: changed_panel(objects, lambda panel: layer_of(panel)["columnOrder"].pop()),
        "their order differ",
    ),
    "a drawn column that does not exist": (
        lambda objects: changed_panel(
            objects,
            lambda panel: panel["embeddableConfig"]["attributes"]["state"]["visualization"].update(metricAccessor="x"),
            "lnsMetric",
        ),
        "draws x",
    ),
    "an unknown field": (
        lambda objects: changed_panel(
            objects, lambda panel: layer_of(panel)["columns"]["by"].update(sourceField="x.y")
        ),
        "cannot be counted",
    ),
    "a field that cannot be counted": (
        lambda objects: changed_control(objects, fieldName="actor.name.text"),
        "be listed",
    ),
    "an unknown field in a query": (
        lambda objects: changed_panel(
            objects,
            lambda panel: panel["embeddableConfig"]["attributes"]["state"]["query"].update(query="actor.nick : x"),
        ),
        "actor.nick",
    ),
    "a query that is none": (
        lambda objects: changed_source(objects, query={"language": "kuery", "query": "status : (failure"}),
        "query is none",
    ),
    "an unknown field in a table of documents": (
        lambda objects: of_type(objects, "search")["attributes"]["columns"].append("actor.nick"),
        "actor.nick",
    ),
    "a panel beyond the grid": (
        lambda objects: changed_panel(objects, lambda panel: panel["gridData"].update(w=49)),
        "48 columns",
    ),
    "panels on each other": (
        lambda objects: changed_panel(objects, lambda panel: panel["gridData"].update(y=0)),
        "overlap",
    ),
    "a panel with two numbers": (
        lambda objects: changed_panel(objects, lambda panel: panel["gridData"].update(i="other")),
        "two numbers",
    ),
    "two panels with one number": (
        lambda objects: changed_panel(
            objects,
            lambda panel: panel.update(panelIndex=json.loads(dashboard(objects)["panelsJSON"])[0]["panelIndex"]),
        ),
        "two panels have one number",
    ),
    "an unknown visualization": (
        lambda objects: changed_panel(
            objects, lambda panel: panel["embeddableConfig"]["attributes"].update(visualizationType="lnsPlot")
        ),
        "lnsPlot is no visualization",
    ),
    "a chart that does not say how to draw": (
        lambda objects: changed_panel(
            objects,
            lambda panel: panel["embeddableConfig"]["attributes"]["state"]["visualization"].pop("fittingFunction"),
        ),
        "would be empty",
    ),
    "an order by what has none": (
        lambda objects: changed_panel(
            objects,
            lambda panel: layer_of(panel)["columns"]["by"]["params"]["orderBy"].update(columnId="metric0"),
            "lnsDatatable",
        ),
        "cannot be in the order of Name",
    ),
    "a version that Kibana 8.19 does not read": (
        lambda objects: of_type(objects, "dashboard").update(typeMigrationVersion="10.3.0"),
        "does not read",
    ),
    "an object twice": (lambda objects: objects.append(copy.deepcopy(objects[0])), "2 times"),
    "a time that is none": (
        lambda objects: of_type(objects, "index-pattern")["attributes"].update(timeFieldName="status"),
        "no time",
    ),
    "two time sliders": (
        lambda objects: dashboard(objects)["controlGroupInput"].update(
            panelsJSON=dashboard(objects)["controlGroupInput"]["panelsJSON"].replace("optionsListControl", "timeSlider")
        ),
        "two time sliders",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_bundle_is_noticed(fields, name: str) -> None:
    """Each kind of fault is named."""
    broken, expected = BROKEN[name]
    objects = kibana.objects()
    broken(objects)
    assert [fault for fault in faults(objects, fields) if expected in fault]


def changed_yaml(members: dict[str, bytes], name: str, change: Callable[[Any], Any]) -> None:
    """Change a YAML file of the package."""
    value = yaml.safe_load(members[name])
    change(value)
    members[name] = yaml.safe_dump(value).encode()


ILM = "data_stream/startup/elasticsearch/ilm/lifecycle.json"
OVERVIEW = "kibana/dashboard/klyra_audit-overview.json"
BROKEN_PACKAGES: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "another id than its file": (
        lambda members: members.update({"kibana/dashboard/klyra_audit-x.json": members.pop(OVERVIEW)}),
        "another id",
    ),
    "a search that is not there": (
        lambda members: members.pop("kibana/search/klyra_audit-search-entries.json"),
        "not in the bundle",
    ),
    "a file that is not JSON": (lambda members: members.update({OVERVIEW: b"{"}), "is not JSON"),
    "a lifecycle that is not there": (lambda members: members.pop(ILM), "is not there"),
    "a misspelt lifecycle": (
        lambda members: members.update({ILM: members[ILM].replace(b"max_age", b"max_agee")}),
        "no max_agee",
    ),
    "a misspelt action": (
        lambda members: members.update({ILM: members[ILM].replace(b"forcemerge", b"forcemerg")}),
        "no action forcemerg",
    ),
    "an unknown field type": (
        lambda members: changed_yaml(
            members, "data_stream/startup/fields/fields.yml", lambda value: value[0].update(type="keywrod")
        ),
        "unknown type",
    ),
    "an agent without a stream": (
        lambda members: members.update({"data_stream/startup/agent/stream/": b""}),
        "no place in a package",
    ),
    "an input without inputs": (
        lambda members: changed_yaml(
            members, "manifest.yml", lambda value: value.update(policy_templates=[{"name": "x", "inputs": []}])
        ),
        "policy templates",
    ),
    "a logo that is not there": (lambda members: members.pop("img/logo.svg"), "logo.svg is missing"),
    "no changelog": (lambda members: members.pop("changelog.yml"), "changelog.yml is missing"),
    "a changelog of another version": (
        lambda members: changed_yaml(members, "changelog.yml", lambda value: value[0].update(version="9.9.9")),
        "does not begin with the version",
    ),
}


@pytest.mark.parametrize("name", BROKEN_PACKAGES)
def test_a_broken_package_is_noticed(fields, name: str) -> None:
    """Each kind of fault is named."""
    broken, expected = BROKEN_PACKAGES[name]
    members = kibana.package()
    broken(members)
    assert [fault for fault in package_faults(members, yaml.safe_load, fields) if expected in fault]
