"""The format `native`: the entry as the query API shows it, and `klyra`, which it is verified by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import orjson

from klyra_siem.formats.integrity import MEMBER, integrity_of

if TYPE_CHECKING:
    from klyra_audit.audit_integrity import RecordKey
    from klyra_audit.format.canonical import JsonObject
    from klyra_siem.destination import SealedEntry

FIELDS: Final = ("id", "timestamp", "event_type", "actor", "resource", "action", "status", "metadata")


class NativeFormat:
    """The eight fields of an entry, in the order of the product's page; what was erased is absent."""

    name = "native"
    content: Literal["json", "text"] = "json"

    def __init__(self, key: RecordKey | None) -> None:
        self._key = key

    def encode(self, entry: SealedEntry) -> bytes:
        """Return one JSON object; the same entry gives the same bytes."""
        document = entry.document
        record: JsonObject = {name: document[name] for name in FIELDS if name in document}
        return orjson.dumps(record | {MEMBER: integrity_of(entry, self._key)})
