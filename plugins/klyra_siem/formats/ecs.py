"""The format `ecs`: Elastic Common Schema, with `klyra.*` for what the schema has no field for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import orjson

from klyra_audit.format import merkle
from klyra_siem.formats.integrity import MEMBER, integrity_of
from klyra_siem.formats.mapping import member, row_of, without_none

if TYPE_CHECKING:
    from klyra_audit.audit_integrity import RecordKey
    from klyra_audit.format.canonical import JsonObject
    from klyra_siem.destination import SealedEntry

VERSION: Final = "9.0.0"
DATASET: Final = "klyra.audit"


class EcsFormat:
    """One document of Elastic Common Schema (ECS reference, "Event", "User", "Source", "Organization")."""

    name = "ecs"
    content: Literal["json", "text"] = "json"

    def __init__(self, key: RecordKey | None) -> None:
        self._key = key

    def encode(self, entry: SealedEntry) -> bytes:
        """Return one JSON object; the same entry gives the same bytes."""
        document = entry.document
        row = row_of(document)
        client_ip = member(document, "metadata", "client_ip")
        user_agent = member(document, "metadata", "user_agent")
        record = {
            "@timestamp": document["timestamp"],
            "ecs": {"version": VERSION},
            "message": f"{row['title']}: {document['status']}",
            "event": _event(entry, row),
            "user": _user(document),
            "organization": {"id": entry.organization_id},
            "source": without_none({"ip": client_ip}),
            "user_agent": without_none({"original": user_agent}),
            "related": without_none({"ip": None if client_ip is None else [client_ip]}),
            MEMBER: _own(document) | integrity_of(entry, self._key),
        }
        return orjson.dumps(without_none(record))


def _event(entry: SealedEntry, row: JsonObject) -> JsonObject:
    return {
        "kind": "event",
        "category": row["ecs"]["category"],
        "type": row["ecs"]["type"],
        "action": entry.document["event_type"],
        "outcome": entry.document["status"],
        "id": entry.entry_id,
        "dataset": DATASET,
        "provider": "klyra",
        "sequence": entry.index,
        "hash": merkle.leaf_hash(entry.leaf).hex(),
    }


def _user(document: JsonObject) -> JsonObject:
    """Return who acted, and the user acted upon as its `target`."""
    actor = without_none({"id": member(document, "actor", "id"), "name": member(document, "actor", "name")})
    actor["roles"] = [document["actor"]["type"]]
    if document["resource"]["type"] == "user":
        target = {name: member(document, "resource", name) for name in ("id", "name")}
        target["email"] = member(document, "metadata", "email")
        actor["target"] = without_none(target)
    return without_none(actor)


def _own(document: JsonObject) -> JsonObject:
    """Return what ECS has no field for."""
    named = {"client_ip", "user_agent"}
    metadata = {name: value for name, value in document.get("metadata", {}).items() if name not in named}
    return without_none({"resource": document["resource"], "event_action": document["action"], "metadata": metadata})
