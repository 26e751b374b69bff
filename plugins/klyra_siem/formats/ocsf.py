"""The formats `ocsf-1.1.0` and `ocsf-1.9.0`: events of the Open Cybersecurity Schema Framework.

1.1.0 is what Splunk's OCSF add-on and AWS Security Lake read. 1.9.0 has User Management (3007) in place of two older
classes, and the profile `record_integrity`, whose attestation says how the entry is chained in the ledger: its
fingerprint is the hash of the entry's leaf, `prev_event` that of the leaf before it of the same organization. In both
`unmapped.klyra` is what the copy is verified by.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from klyra_audit import timestamps
from klyra_audit.format import merkle
from klyra_audit.format.leaf import NO_PREVIOUS, Leaf
from klyra_siem.formats.integrity import MEMBER, SIGNATURE, integrity_of
from klyra_siem.formats.mapping import ERASED, FAILURE, member, row_of, severity_of, table, without_none

if TYPE_CHECKING:
    from klyra_audit.audit_integrity import RecordKey
    from klyra_audit.format.canonical import JsonObject
    from klyra_siem.destination import SealedEntry

VERSIONS: Final = ("1.1.0", "1.9.0")
INTEGRITY_PROFILE: Final = "record_integrity"

_WITH_INTEGRITY = "1.9.0"
_OTHER = 99
_SHA_256 = 3
_NS_PER_MS = 1_000_000
_US_PER_MS = 1000


class OcsfFormat:
    """Events of one version of OCSF (schema.ocsf.io)."""

    content: Literal["json", "text"] = "json"

    def __init__(self, version: str, key: RecordKey | None) -> None:
        self.name = f"ocsf-{version}"
        self._version = version
        self._key = key
        self._has_integrity = version == _WITH_INTEGRITY

    def encode(self, entry: SealedEntry) -> bytes:
        """Return one JSON object; the same entry gives the same bytes."""
        document = entry.document
        row = row_of(document)
        described = table("ocsf")["classes"][str(row[self.name]["class"])]
        profiles = described.get("profiles", {}).get(self.name, [])
        integrity = integrity_of(entry, self._key)
        event = _classified(document, row, row[self.name], described)
        event |= {"metadata": self._metadata(entry, [*profiles, *self._integrity_profile()])}
        event |= {"actor": {"user": _user(document["actor"])}} | _subject(document, described["subject"])
        client, unplaced = _client(document, described["context"][self.name])
        event |= client
        if described["subject"] == "resources":
            event["api"] = _api(document)
            event.setdefault("src_endpoint", {"svc_name": "unknown"})  # required: an event may have no client address
        if self._has_integrity:
            event["attestation_list"] = [_attestation(entry, integrity)]
        event["unmapped"] = without_none({"metadata": _unmapped(document) | unplaced}) | {MEMBER: integrity}
        return orjson.dumps(event)

    def _integrity_profile(self) -> list[str]:
        return [INTEGRITY_PROFILE] if self._has_integrity else []

    def _metadata(self, entry: SealedEntry, profiles: list[str]) -> JsonObject:
        document = entry.document
        categories = member(document, "metadata", "categories")
        metadata: JsonObject = {
            "version": self._version,
            "product": {"name": "Audit Logs", "vendor_name": "Klyra"},
            "uid": entry.entry_id,
            "event_code": document["event_type"],
            "original_time": document["timestamp"],
            "logged_time": entry.ingest_us // _US_PER_MS,
            "tenant_uid": entry.organization_id,
            "log_name": entry.origin,
            "sequence": entry.index,
            "labels": categories if isinstance(categories, list) and categories else None,
            "profiles": profiles or None,
        }
        return without_none(metadata)


def _classified(document: JsonObject, row: JsonObject, mapped: JsonObject, described: JsonObject) -> JsonObject:
    """Return what every event of OCSF has: what it is, when, how bad, and how it ended."""
    class_uid, activity = mapped["class"], mapped["activity"]
    category, category_name = described["category"]
    activity_name = mapped.get("activity_name") or described["activities"][str(activity)]
    severity = severity_of(document, row)
    is_failure = document["status"] == FAILURE
    return {
        "class_uid": class_uid,
        "class_name": described["name"],
        "category_uid": category,
        "category_name": category_name,
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": class_uid * 100 + activity,
        "type_name": f"{described['name']}: {'Other' if activity == _OTHER else activity_name}",
        "time": timestamps.to_nanoseconds(document["timestamp"]) // _NS_PER_MS,
        "severity_id": severity,
        "severity": table("ocsf")["severities"][str(severity)],
        "status_id": 2 if is_failure else 1,
        "status": "Failure" if is_failure else "Success",
        "message": row["title"],
    }


def _user(actor: JsonObject) -> JsonObject:
    """Return who acted; OCSF wants a name for everyone, so that one who was erased is `[erased]`."""
    type_id, type_name = table("ocsf")["actor_types"].get(actor["type"], [_OTHER, actor["type"]])
    return without_none(
        {"uid": actor.get("id") or ERASED, "name": actor.get("name"), "type_id": type_id, "type": type_name}
    )


def _subject(document: JsonObject, subject: str) -> JsonObject:
    """Return what was acted upon, where its class has it."""
    resource = document["resource"]
    named = without_none({"uid": resource.get("id") or ERASED, "name": resource.get("name")})
    typed = named | {"type": table("ocsf")["entity_types"].get(resource["type"], resource["type"])}
    if subject == "entity":
        return {"entity": typed}
    if subject == "resources":
        return {"resources": [typed]}
    user = {"user": without_none(named | {"email_addr": member(document, "metadata", "email")})}
    role = member(document, "metadata", "role")
    if subject == "privileges":
        return user | {"privileges": [str(role or "unknown")]}
    if subject == "roles" and role:
        return user | {"iam_roles": [{"name": role}]}
    return user


def _client(document: JsonObject, attributes: list[str]) -> tuple[JsonObject, JsonObject]:
    """Return what is known about the client: as the class has it, and what it has no attribute for."""
    address, agent = (member(document, "metadata", name) for name in ("client_ip", "user_agent"))
    placed, unplaced = {}, {}
    if _is_address(address) and "src_endpoint" in attributes:
        placed["src_endpoint"] = {"ip": address}
    else:
        unplaced["client_ip"] = address
    if agent and "http_request" in attributes:
        placed["http_request"] = {"user_agent": agent}
    else:
        unplaced["user_agent"] = agent
    return placed, without_none(unplaced)


def _api(document: JsonObject) -> JsonObject:
    return {"operation": document["event_type"], "service": {"name": "Klyra"}}


def _unmapped(document: JsonObject) -> JsonObject:
    placed = {"client_ip", "user_agent"}
    return {name: value for name, value in document.get("metadata", {}).items() if name not in placed}


def _attestation(entry: SealedEntry, integrity: JsonObject) -> JsonObject:
    """Return where the entry stands in its organization's chain (OCSF 1.9.0, `attestation`)."""
    leaf = Leaf.unpack(entry.leaf)
    chain = f"{entry.origin}/{leaf.org_ref.hex()}"
    attestation: dict[str, Any] = {
        "uid": f"{entry.origin}/{entry.index}",
        "authority_uid": entry.origin.rpartition("/")[0],
        "chain_uid": chain,
        "fingerprint": _fingerprint(merkle.leaf_hash(entry.leaf).hex()),
    }
    if leaf.org_prev != NO_PREVIOUS:
        previous = {"uid": f"{chain}/{leaf.org_seq - 1}", "fingerprint": _fingerprint(leaf.org_prev.hex())}
        attestation["prev_event"] = previous
    if SIGNATURE in integrity:
        # Its value has no attribute there; it stands in `unmapped.klyra.signature`.
        attestation["signatures"] = [{"algorithm_id": _OTHER, "algorithm": "Ed25519"}]
    return attestation


def _fingerprint(value: str) -> JsonObject:
    serialization = {"serialization_id": _OTHER, "serialization": "KL1 leaf"}
    return {"algorithm_id": _SHA_256, "algorithm": "SHA-256", "value": value} | serialization


def _is_address(text: object) -> bool:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True
