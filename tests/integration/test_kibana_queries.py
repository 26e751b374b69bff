"""Every panel, column, control, search and rule that Kibana gets, asked of a real server with real entries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from klyra_collector.store.elasticsearch import names
from klyra_collector.store.elasticsearch.connection import connect, parse, request
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.documents import MetadataFields
from klyra_collector.store.elasticsearch.setup import apply, plan
from support import kibana, kibana_events
from support.kibana_queries import HITS, counts, filters_of, panel_search, rows, rule_search, time_of, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elasticsearch import Elasticsearch

    from support.elasticsearch import Node

Json = dict[str, Any]

TITLES = {each["id"]: each["attributes"]["title"] for each in kibana.objects() if each["type"] == "index-pattern"}
PANELS = [
    pytest.param(dashboard, panel, id=f"{dashboard['id']}: {panel['title']}")
    for dashboard in kibana.dashboards()
    for panel in json.loads(dashboard["attributes"]["panelsJSON"])
    if panel["type"] == "lens"
]
CONTROLS = [
    pytest.param(dashboard, control, id=f"{dashboard['id']}: {control['explicitInput']['title']}")
    for dashboard in kibana.dashboards()
    for control in json.loads(dashboard["attributes"]["controlGroupInput"]["panelsJSON"]).values()
    if control["type"] == "optionsListControl"
]
SEARCHES = [pytest.param(each, id=each["id"]) for each in kibana.objects() if each["type"] == "search"]
RULES = json.loads(kibana.shipped("rules.json"))


@pytest.fixture(scope="module")
def client(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    """A cluster with documents of the last hour in every stream that Kibana looks at."""
    folder = tmp_path_factory.mktemp("kibana")
    (folder / "password").write_text(cluster.password)
    url = f"elasticsearch+{cluster.url}?user=elastic&password=file:{folder / 'password'}"
    with connect(parse(url)) as made:
        apply(made, plan(made, definitions([Retained("startup", 30)])), lambda _: None)
        (found,) = request(made, "GET", "/_component_template/klyra-audit-entries")["component_templates"]
        properties = found["component_template"]["template"]["mappings"]["properties"]["metadata"]["properties"]
        answer = made.bulk(operations=kibana_events.lines(MetadataFields(properties), made, folder), refresh=True).body
        assert not answer["errors"], [item for item in answer["items"] if item["create"]["status"] != 201][:2]
        yield made


def search(client: Elasticsearch, view: str, body: Json) -> Json:
    """Search a data view as Kibana does."""
    return request(client, "POST", f"/{TITLES[view]}/_search?ignore_unavailable=true", body)


def shown(dashboard: Json) -> list[Json]:
    """Return the queries that a dashboard puts in front of each of its panels."""
    attributes = dashboard["attributes"]
    return [time_of(attributes), *filters_of(attributes)]


@pytest.mark.parametrize(("dashboard", "panel"), PANELS)
def test_every_panel_shows_something(client, dashboard: Json, panel: Json) -> None:
    """Each panel has rows, and each of its columns has a value in some row."""
    attributes = panel["embeddableConfig"]["attributes"]
    (layer,) = attributes["state"]["datasourceStates"]["formBased"]["layers"].values()
    answer = search(client, attributes["references"][0]["id"], panel_search(attributes, dashboard["attributes"]))
    found = rows(answer["aggregations"], layer)
    assert found
    for name, column in layer["columns"].items():
        if column.get("sourceField"):
            assert [row for row in found if row[name] not in (None, "")], column["label"]


def test_ratios_are_of_what_they_say(client) -> None:
    """Flags are a part of the decisions: the two counts behind a rate are neither nothing nor the same."""
    dashboard = next(each for each in kibana.dashboards() if each["id"] == "klyra_audit-moderation")
    for panel in json.loads(dashboard["attributes"]["panelsJSON"]):
        if panel["title"] != "Flag rate":
            continue
        attributes = panel["embeddableConfig"]["attributes"]
        (layer,) = attributes["state"]["datasourceStates"]["formBased"]["layers"].values()
        (row,) = rows(
            search(client, "klyra_audit-entries", panel_search(attributes, dashboard["attributes"]))["aggregations"],
            layer,
        )
        assert (row["metric0X0"], row["metric0X1"]) == (4, 4)


@pytest.mark.parametrize(("dashboard", "control"), CONTROLS)
def test_every_control_lists_values(client, dashboard: Json, control: Json) -> None:
    """What is chosen there then finds documents."""
    given = control["explicitInput"]
    field, view = given["fieldName"], given["dataViewId"]
    body = {
        "size": 0,
        "query": {"bool": {"filter": shown(dashboard)}},
        "aggs": {
            "suggestions": {"terms": {"field": field, "size": 10, "order": {"_count": "desc"}}},
            "unique": {"cardinality": {"field": field}},
        },
    }
    found = search(client, view, body)["aggregations"]
    first = found["suggestions"]["buckets"][0]["key"]
    chosen = {"query": {"bool": {"filter": [*shown(dashboard), {"terms": {field: [first]}}]}}}
    assert found["unique"]["value"] > 0
    assert search(client, view, chosen)["hits"]["hits"]


@pytest.mark.parametrize("saved", SEARCHES)
def test_every_saved_search_finds_documents(client, saved: Json) -> None:
    """Each column has a value in some document; the first row opens as a whole document."""
    attributes = saved["attributes"]
    (view,) = {reference["id"] for reference in saved["references"]}
    body = {
        "size": 500,
        "query": {"bool": {"filter": [window("now-1d"), *filters_of(attributes)]}},
        "sort": [{name: direction} for name, direction in attributes["sort"]],
        "fields": [{"field": "*", "include_unmapped": True}],
    }
    hits = search(client, view, body)["hits"]["hits"]
    assert len(hits) >= HITS
    assert [name for name in attributes["columns"] if not any(name in hit["fields"] for hit in hits)] == []
    assert hits[0]["_source"]["@timestamp"]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_sees_what_it_is_for(client, name: str) -> None:
    """Above its threshold with what happened here; the one that waits for silence hears something."""
    parameters = RULES[name]["params"]
    (threshold,) = parameters["threshold"]
    path = f"/{','.join(parameters['index'])}/_search?ignore_unavailable=true"
    found = counts(request(client, "POST", path, rule_search(parameters)), parameters)
    if parameters["thresholdComparator"] == ">":
        assert max(found) > threshold
    else:
        assert min(found) >= threshold


def test_clicking_an_address_block_works(client) -> None:
    """What the help on the overview says to type."""
    body = {"query": {"term": {"metadata.client_ip": "198.51.100.0/24"}}}
    assert search(client, "klyra_audit-entries", body)["hits"]["hits"]


def test_the_streams_are_those_of_the_store(client) -> None:
    """Each pattern finds its stream, and only streams with such documents."""
    for view, stream in (
        ("entries", names.entry_stream("startup")),
        ("quarantine", names.quarantine_stream("startup")),
        ("health", names.HEALTH_STREAM),
    ):
        hits = search(client, f"klyra_audit-{view}", {"size": 1})["hits"]["hits"]
        assert hits[0]["_index"].startswith(".ds-klyra-audit-")
        assert request(client, "POST", f"/{stream}/_count")["count"] > 0


def test_collectors_write_every_field_of_health_documents(client) -> None:
    """A panel over a field that nobody fills would say that all is well."""
    written = set(_members(search(client, "klyra_audit-health", {"size": 1})["hits"]["hits"][0]["_source"]))
    (template,) = request(client, "GET", "/_index_template/klyra-audit-health")["index_templates"]
    mapped = template["index_template"]["template"]["mappings"]["properties"]
    assert {name for name in mapped if name != "followers"} <= written


def _members(value: Json, prefix: str = "") -> Iterator[str]:
    for name, inner in value.items():
        yield f"{prefix}{name}"
        if isinstance(inner, dict):
            yield from _members(inner, f"{prefix}{name}.")
