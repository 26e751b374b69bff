"""Panels that Lens draws, by value: what is counted (columns of a layer) and how it is drawn (a visualization).

The shapes are those of Kibana 8.19; later versions read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kibana.fields import RECORDS, SourceWrong, is_aggregatable, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kibana.fields import Fields
    from kibana.sources import Group, Metric, Panel

Json = dict[str, Any]

_TYPES: Final = {"metric": "lnsMetric", "table": "lnsDatatable", "donut": "lnsPie", "bars": "lnsXY", "lines": "lnsXY"}
_SERIES: Final = {"bars": "bar_stacked", "lines": "line"}
_OVER_TIME: Final = "time"
_PALETTE: Final = "eui_amsterdam_color_blind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Where a panel's figures come from.

    Attributes:
        layer_id: its id.
        data_view_id: what is searched.
        fields: of its documents.
        foreign: it is another data view than the dashboard's, whose filters do not fit.
    """

    layer_id: str
    data_view_id: str
    fields: Fields
    foreign: bool


def attributes(panel: Panel, layer: Layer) -> Json:
    """Return the `attributes` of a by-value Lens panel.

    Raises:
        SourceWrong: a field is not there or cannot be counted, or the panel lacks what its kind needs.
    """
    if panel.kind not in _TYPES:
        raise SourceWrong(f"{panel.title}: {panel.kind} is no kind of panel")
    columns = _columns(panel, layer)
    order = sorted(columns, key=lambda column: not columns[column]["isBucketed"])
    return {
        "title": "",
        "description": "",
        "type": "lens",
        "visualizationType": _TYPES[panel.kind],
        "references": [reference(layer)],
        "state": {
            "datasourceStates": {
                "formBased": {
                    "layers": {
                        layer.layer_id: {
                            "columnOrder": order,
                            "columns": columns,
                            "incompleteColumns": {},
                            "ignoreGlobalFilters": layer.foreign,
                            "sampling": 1,
                        }
                    }
                },
                "textBased": {"layers": {}},
            },
            "visualization": _visualization(panel, layer.layer_id),
            "query": {"language": "kuery", "query": panel.kql},
            "filters": [],
            "internalReferences": [],
            "adHocDataViews": {},
        },
    }


def reference(layer: Layer) -> dict[str, str]:
    """Return the reference of a layer to its data view."""
    return {
        "id": layer.data_view_id,
        "name": f"indexpattern-datasource-layer-{layer.layer_id}",
        "type": "index-pattern",
    }


def _columns(panel: Panel, layer: Layer) -> dict[str, Json]:
    columns: dict[str, Json] = {}
    if panel.kind in _SERIES:
        columns[_OVER_TIME] = _date_histogram()
    for name, group in _groups(panel):
        columns[name] = _terms(group, layer.fields, f"metric{panel.order}")
    for position, metric in enumerate(panel.metrics):
        columns |= _metric(f"metric{position}", metric, layer.fields)
    return columns


def _groups(panel: Panel) -> list[tuple[str, Group]]:
    found = (("by", panel.by), ("then", panel.then))
    return [(name, group) for name, group in found if group is not None]


def _date_histogram() -> Json:
    return {
        "label": "Time",
        "customLabel": True,
        "dataType": "date",
        "isBucketed": True,
        "operationType": "date_histogram",
        "scale": "interval",
        "sourceField": "@timestamp",
        "params": {"interval": "auto", "includeEmptyRows": True, "dropPartials": False},
    }


def _terms(group: Group, fields: Fields, ordering: str) -> Json:
    _check(group.field, fields)
    return {
        "label": group.label or group.field,
        "customLabel": True,
        "dataType": kind_of(fields, group.field),
        "isBucketed": True,
        "operationType": "terms",
        "scale": "ordinal",
        "sourceField": group.field,
        "params": {
            "size": group.size,
            "orderBy": {"type": "column", "columnId": ordering},
            "orderDirection": "desc",
            "otherBucket": group.other,
            "missingBucket": False,
            "parentFormat": {"id": "terms"},
            "include": [],
            "exclude": [],
            "includeIsRegex": False,
            "excludeIsRegex": False,
        },
    }


def _metric(column: str, metric: Metric, fields: Fields) -> dict[str, Json]:
    """Return the columns of one figure: one, or four for a ratio."""
    if metric.of == "ratio":
        return _ratio(column, metric)
    _check_known(metric)
    made: Json = {
        "label": metric.label,
        "customLabel": True,
        "dataType": "number",
        "isBucketed": False,
        "operationType": metric.of,
        "scale": "ratio",
        "sourceField": metric.field or RECORDS,
        "params": _parameters(metric),
    }
    if metric.field:
        _check(metric.field, fields)
        if metric.of in ("max", "last_value"):
            made["dataType"] = kind_of(fields, metric.field)
    if metric.of == "last_value":
        made["scale"] = "ratio" if made["dataType"] == "number" else "ordinal"
    kql = metric.kql or (f'"{metric.field}": *' if metric.of == "last_value" else "")
    if kql:
        made["filter"] = {"language": "kuery", "query": kql}
    if metric.within:
        made["reducedTimeRange"] = metric.within
    return {column: made}


def _parameters(metric: Metric) -> Json:
    """Return the parameters of a figure. How a duration is shown is said once, by the data view."""
    if metric.of == "last_value":
        return {"sortField": "@timestamp", "showArrayValues": False}
    if metric.of == "percentile":
        return {"percentile": metric.percentile}
    return {} if metric.of in ("max", "median") else {"emptyAsNull": False}


def _ratio(column: str, metric: Metric) -> dict[str, Json]:
    """Return a formula with its parts spelled out, as Lens saves it."""
    numerator, denominator, division = (f"{column}X{part}" for part in range(3))
    formula = f"count(kql='{metric.kql}') / count(kql='{metric.over}')"
    part: Json = {
        "label": f"Part of {metric.label}",
        "customLabel": True,
        "dataType": "number",
        "isBucketed": False,
        "scale": "ratio",
    }
    count = {"operationType": "count", "sourceField": RECORDS, "params": {"emptyAsNull": False}}
    tree = {
        "type": "function",
        "name": "divide",
        "args": [numerator, denominator],
        "location": {"min": 0, "max": len(formula)},
        "text": formula,
    }
    percent = {"id": "percent", "params": {"decimals": 1}}
    return {
        column: part
        | {
            "label": metric.label,
            "operationType": "formula",
            "params": {"formula": formula, "isFormulaBroken": False, "format": percent},
            "references": [division],
        },
        numerator: part | count | {"filter": {"language": "kuery", "query": metric.kql}},
        denominator: part | count | {"filter": {"language": "kuery", "query": metric.over}},
        division: part
        | {"operationType": "math", "params": {"tinymathAst": tree}, "references": [numerator, denominator]},
    }


def _visualization(panel: Panel, layer_id: str) -> Json:
    layer: Json = {"layerId": layer_id, "layerType": "data"}
    metrics = [f"metric{position}" for position in range(len(panel.metrics))]
    groups = [name for name, _ in _groups(panel)]
    if panel.kind == "metric":
        return layer | {"metricAccessor": metrics[0]} | ({"color": panel.color} if panel.color else {})
    if panel.kind == "table":
        columns = [{"columnId": column, "isTransposed": False} for column in groups + metrics]
        return layer | {"columns": columns, "paging": {"enabled": True, "size": 10}}
    if panel.kind == "donut":
        return {"shape": "donut", "layers": [layer | _slices(groups, metrics)]}
    return _axes(panel, layer | {"xAccessor": _OVER_TIME, "accessors": metrics})


def _slices(groups: list[str], metrics: list[str]) -> Json:
    return {
        "primaryGroups": groups,
        "metrics": metrics,
        "numberDisplay": "percent",
        "categoryDisplay": "default",
        "legendDisplay": "default",
        "nestedLegend": False,
    }


def _axes(panel: Panel, layer: Json) -> Json:
    series = _SERIES[panel.kind]
    layer |= {"seriesType": series, "position": "top", "showGridlines": False}
    if panel.by is not None:
        layer["splitAccessor"] = "by"
    if panel.colors:
        layer["colorMapping"] = _color_mapping(panel.colors)
    each_axis = {"x": True, "yLeft": True, "yRight": True}
    return {
        "layers": [layer],
        "preferredSeriesType": series,
        "legend": {"isVisible": True, "position": "right", "showSingleSeries": False},
        "fittingFunction": "None" if panel.kind == "bars" else "Linear",
        "valueLabels": "hide",
        "axisTitlesVisibilitySettings": {"x": False, "yLeft": False, "yRight": False},
        "gridlinesVisibilitySettings": each_axis,
        "tickLabelsVisibilitySettings": each_axis,
        "labelsOrientation": {"x": 0, "yLeft": 0, "yRight": 0},
    }


def _color_mapping(colors: Mapping[str, str]) -> Json:
    rest = {"color": {"type": "loop"}, "rule": {"type": "other"}, "touched": False}
    return {
        "assignments": [
            {
                "color": {"type": "colorCode", "colorCode": color},
                "rule": {"type": "matchExactly", "values": [value]},
                "touched": True,
            }
            for value, color in colors.items()
        ],
        "specialAssignments": [rest],
        "colorMode": {"type": "categorical"},
        "paletteId": _PALETTE,
    }


def _check(field: str, fields: Fields) -> None:
    if not is_aggregatable(fields, field):
        raise SourceWrong(f"values of {field} cannot be counted")


def _check_known(metric: Metric) -> None:
    known = ("count", "unique_count", "sum", "max", "median", "percentile", "last_value")
    if metric.of not in known or (metric.of == "count") == bool(metric.field):
        raise SourceWrong(f"{metric.label}: {metric.of} of {metric.field or 'nothing'} is no figure")
