"""What Kibana asks Elasticsearch for a panel, a control, a saved search or a rule; close enough to see it answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kibana import kql
from kibana.fields import RECORDS

Json = dict[str, Any]

HITS = 5


def window(start: str, end: str = "now", field: str = "@timestamp") -> Json:
    """Return the query for a span of time."""
    return {"range": {field: {"gte": start, "lte": end, "format": "strict_date_optional_time||epoch_millis"}}}


def time_of(dashboard: Json) -> Json:
    """Return the query for the time that a dashboard opens with."""
    return window(dashboard["timeFrom"], dashboard["timeTo"])


def filters_of(attributes: Json) -> list[Json]:
    """Return the queries of the filter pills and of the search bar."""
    source = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
    return [each["query"] for each in source["filter"]] + [kql.compiled(source["query"]["query"])]


def panel_search(attributes: Json, dashboard: Json) -> Json:
    """Return the body of the search for a Lens panel; one that ignores its dashboard's filters keeps to its time."""
    state = attributes["state"]
    (layer,) = state["datasourceStates"]["formBased"]["layers"].values()
    own = [] if layer["ignoreGlobalFilters"] else filters_of(dashboard)
    clauses = [time_of(dashboard), *own, kql.compiled(state["query"]["query"])]
    return {"size": 0, "query": {"bool": {"filter": clauses}}, "aggs": _aggregations(layer)}


def _aggregations(layer: Json) -> Json:
    columns = [(name, layer["columns"][name]) for name in layer["columnOrder"]]
    inner: Json = {
        name: _figure(column) for name, column in columns if column.get("sourceField") and not column["isBucketed"]
    }
    for name, column in reversed([pair for pair in columns if pair[1]["isBucketed"]]):
        inner = {name: _bucket(column, layer["columns"], inner)}
    return inner


def _bucket(column: Json, columns: Json, inner: Json) -> Json:
    field = column["sourceField"]
    if column["operationType"] == "date_histogram":
        return {"date_histogram": {"field": field, "fixed_interval": "1h", "min_doc_count": 0}, "aggs": inner}
    assert column["operationType"] == "terms"
    terms: Json = {"field": field, "size": column["params"]["size"]}
    ordering = column["params"]["orderBy"]["columnId"]
    by = columns[ordering]
    if by["operationType"] == "count" and "filter" not in by:
        return {"terms": terms, "aggs": inner}
    terms["order"] = {"order>figure" if "filter" in by else "order": "desc"}
    return {"terms": terms, "aggs": inner | {"order": _figure(by)}}


def _figure(column: Json) -> Json:
    """Return what computes a figure: a filter around it where it has its own."""
    inner = _plain_figure(column)
    clauses = [kql.compiled(column["filter"]["query"])] if "filter" in column else []
    if "reducedTimeRange" in column:
        clauses.append(window(f"now-{column['reducedTimeRange']}"))
    if not clauses:
        return inner
    return {"filter": {"bool": {"filter": clauses}}, "aggs": {"figure": inner}}


def _plain_figure(column: Json) -> Json:
    field = column["sourceField"]
    if field == RECORDS:
        return {"value_count": {"field": "_index"}}
    kind = column["operationType"]
    if kind == "last_value":
        top = {"size": 1, "_source": False, "fields": [field], "sort": [{column["params"]["sortField"]: "desc"}]}
        return {"top_hits": top}
    if kind in ("median", "percentile"):
        return {"percentiles": {"field": field, "percents": [column["params"].get("percentile", 50)]}}
    return {{"unique_count": "cardinality", "sum": "sum", "max": "max"}[kind]: {"field": field}}


def rows(aggregations: Json, layer: Json) -> list[Json]:
    """Return the rows of a table, or the points of a chart, by column."""
    buckets = [name for name in layer["columnOrder"] if layer["columns"][name]["isBucketed"]]
    figures = [
        name for name, column in layer["columns"].items() if column.get("sourceField") and not column["isBucketed"]
    ]
    return list(_rows(aggregations, buckets, figures, {}))


def _rows(answer: Json, buckets: list[str], figures: list[str], row: Json) -> Iterator[Json]:
    if not buckets:
        yield row | {name: _value(answer[name], name) for name in figures}
        return
    for bucket in answer[buckets[0]]["buckets"]:
        if bucket["doc_count"]:
            yield from _rows(bucket, buckets[1:], figures, row | {buckets[0]: bucket["key"]})


def _value(answer: Json, name: str) -> Any:
    if "figure" in answer:
        return _value(answer["figure"], name)
    if "hits" in answer:
        found = answer["hits"]["hits"]
        return next(iter(found[0]["fields"].values()), None) if found and "fields" in found[0] else None
    if "values" in answer:
        return next(iter(answer["values"].values()))
    return answer["value"]


def rule_search(parameters: Json) -> Json:
    """Return the body of the search of a rule."""
    span = window(f"now-{parameters['timeWindowSize']}{parameters['timeWindowUnit']}", field=parameters["timeField"])
    body: Json = {
        "size": 0 if parameters["groupBy"] == "top" else parameters["size"],
        "track_total_hits": True,
        "query": {"bool": {"filter": [json.loads(parameters["esQuery"])["query"], span]}},
        "sort": [{parameters["timeField"]: "desc"}],
    }
    if parameters["groupBy"] == "top":
        sources = [{field: {"terms": {"field": field}}} for field in parameters["termField"]]
        body["aggs"] = {"groups": {"composite": {"size": parameters["termSize"], "sources": sources}}}
    return body


def counts(answer: Json, parameters: Json) -> list[int]:
    """Return what a rule compares with its threshold: of everything, or of each group."""
    if parameters["groupBy"] == "top":
        return [bucket["doc_count"] for bucket in answer["aggregations"]["groups"]["buckets"]]
    return [answer["hits"]["total"]["value"]]
