"""Whether Elasticsearch finds entries by what they say: what an index does with their members. Pure.

An entry that is there, whole, and found by no search is as good as gone for whoever searches. So each index must treat
what is searched by as the shipped mapping does. A field that an index lacks is none that its documents can have, as
long as it refuses unknown members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from klyra_collector.verify.elasticsearch_documents import members

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klyra_audit.format.canonical import JsonObject

_WORD: Final[JsonObject] = {"type": "keyword"}
_NUMBER: Final[JsonObject] = {"type": "long"}
_NAME: Final[JsonObject] = {"type": "keyword", "ignore_above": 1024}

_SEALED: Final[dict[str, JsonObject]] = {
    "@timestamp": {"type": "date_nanos"},
    "klyra.log": _WORD,
    "klyra.index": _NUMBER,
    "klyra.org_ref": _WORD,
    "klyra.org_seq": _NUMBER,
    "klyra.timestamp_ns": _NUMBER,
    "klyra.sealing_day": {"type": "integer"},
    "klyra.expire_day": _NUMBER,
    "klyra.ingested_at": {"type": "date"},
    "klyra.policy": _WORD,
    "klyra.held": {"type": "boolean"},
}
ENTRY: Final[dict[str, JsonObject]] = _SEALED | {
    "id": _WORD,
    "organization_id": _WORD,
    "event_type": _WORD,
    "action": _WORD,
    "status": _WORD,
    "actor.type": _WORD,
    "actor.id": _WORD,
    "resource.type": _WORD,
    "resource.id": _WORD,
    "metadata.client_ip": {"type": "ip", "ignore_malformed": True},
    "klyra.shown_from": _NUMBER,
}
QUARANTINED: Final[dict[str, JsonObject]] = _SEALED | {
    "quarantine.reference": _WORD,
    "quarantine.encoding": _WORD,
    "quarantine.key_id": _WORD,
    "quarantine.reason": _NAME,
    "quarantine.sha256": _WORD,
    "quarantine.size": _NUMBER,
}


def judge_mapping(mapping: JsonObject, searched: Mapping[str, JsonObject]) -> Iterator[str]:
    """Yield what an index does otherwise than it must.

    Args:
        mapping: as the server tells it.
        searched: `ENTRY` or `QUARANTINED`.
    """
    if mapping.get("dynamic") != "strict":
        yield "it takes in members that nobody searches by"
    if mapping.get("enabled", True) is not True or mapping.get("runtime"):
        yield "it searches by something else than what entries say"
    for path, expected in searched.items():
        found = _field(mapping, path)
        if found is not None and found != expected:
            yield f"it does not search {path} as it should"


def _field(mapping: JsonObject, path: str) -> Any:  # noqa: ANN401 - whatever the server says
    """Return what is done with a member, None for one that is refused."""
    found: Any = mapping
    for part in path.split("."):
        found = members(found).get("properties")
        found = members(found).get(part)
        if found is None:
            return None
        if not isinstance(found, dict) or found.get("enabled", True) is not True or "dynamic" in found:
            return "not looked at"
    return found
