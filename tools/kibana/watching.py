"""Alert rules and roles, as bodies of Kibana's API."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from kibana import kql
from kibana.fields import SourceWrong, is_searchable, resolved

if TYPE_CHECKING:
    from kibana.fields import Fields
    from kibana.sources import Role, Rule, Sources

Json = dict[str, Any]

_DURATION: Final = re.compile(r"(\d+)([smhd])")
_GROUPS: Final = 100  # at most so many alerts of one rule at a time
_HITS: Final = 100  # documents that an alert carries along


def rules(sources: Sources, mappings: dict[str, Fields]) -> Json:
    """Return name → body of `POST /api/alerting/rule/<id>`.

    Raises:
        SourceWrong: a rule names what is not there.
    """
    return {
        name: _rule(rule, sources, mappings[sources.data_views[rule.data_view].stream])
        for name, rule in sources.rules.items()
    }


def roles(sources: Sources) -> Json:
    """Return name → body of `PUT /api/security/role/<name>`, with `$space` and `$organization` to be filled in."""
    return {name: _role(role, sources) for name, role in sources.roles.items()}


def pretty(value: Json) -> bytes:
    """Return JSON for people to read, the same bytes for the same value."""
    return (json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()


def _rule(rule: Rule, sources: Sources, fields: Fields) -> Json:
    query = kql.compiled(rule.kql)
    for field in (*kql.fields_of(query), rule.time_field, *rule.for_each):
        if not is_searchable(fields, field):
            raise SourceWrong(f"{rule.name}: {field} cannot be searched")
    if resolved(fields, rule.time_field)["type"] not in ("date", "date_nanos"):
        raise SourceWrong(f"{rule.name}: {rule.time_field} is no time")
    size, unit = _duration(rule.window)
    parameters = {
        "searchType": "esQuery",
        "index": sources.data_views[rule.data_view].title.split(","),
        "timeField": rule.time_field,
        "esQuery": json.dumps({"query": query}, indent=2),
        "size": _HITS,
        "timeWindowSize": size,
        "timeWindowUnit": unit,
        "aggType": "count",
        "excludeHitsFromPreviousRun": not rule.for_each and rule.above == 0,
    }
    return {
        "name": rule.name,
        "consumer": "stackAlerts",
        "rule_type_id": ".es-query",
        "tags": ["klyra-audit"],
        "schedule": {"interval": rule.every},
        "actions": [],
        "params": parameters | _threshold(rule) | _grouping(rule),
    }


def _threshold(rule: Rule) -> Json:
    if (rule.above is None) == (rule.below is None):
        raise SourceWrong(f"{rule.name}: either above or below")
    if rule.above is not None:
        return {"thresholdComparator": ">", "threshold": [rule.above]}
    return {"thresholdComparator": "<", "threshold": [rule.below]}


def _grouping(rule: Rule) -> Json:
    if not rule.for_each:
        return {"groupBy": "all"}
    field = rule.for_each[0] if len(rule.for_each) == 1 else list(rule.for_each)
    return {"groupBy": "top", "termField": field, "termSize": _GROUPS}


def _duration(text: str) -> tuple[int, str]:
    matched = _DURATION.fullmatch(text)
    if matched is None:
        raise SourceWrong(f"{text} is no duration")
    return int(matched[1]), matched[2]


def _role(role: Role, sources: Sources) -> Json:
    patterns = [
        pattern
        for stream in role.streams
        for pattern in (
            ["klyra-audit-*-at-$organization"]
            if stream == "organization"
            else sources.data_views[stream].title.split(",")
        )
    ]
    return {
        "description": role.description,
        "elasticsearch": {
            "cluster": [],
            "indices": [{"names": patterns, "privileges": ["read", "view_index_metadata"]}],
            "run_as": [],
        },
        "kibana": [
            {
                "base": [],
                "feature": {name: list(privileges) for name, privileges in role.features.items()},
                "spaces": ["$space"],
            }
        ],
    }
