"""An event made ready to be sent: validated, split, salted, committed to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit.errors import InvalidEvent
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import FormatError, ProfileError
from klyra_audit.format.sections import Salts

if TYPE_CHECKING:
    from klyra_audit.catalog import Catalog
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import Marks
    from klyra_audit.validation import Validator

MAX_INVALID_BYTES: Final = 256 * 1024
NO_COMMIT: Final = bytes(32)  # of an event that no leaf can commit to


@dataclass(frozen=True, slots=True)
class PreparedEvent:
    """What travels, and what the receipt must commit to.

    Attributes:
        record_id: the entry's id.
        document: the event document.
        encoded: its canonical bytes.
        salts: 48 bytes.
        sections: canonical JSON of the pointer lists, None where the split needs no catalog.
        commit: what the leaf must hold.
    """

    record_id: str
    document: JsonObject
    encoded: bytes
    salts: bytes
    sections: str | None
    commit: bytes


def prepare(
    document: JsonObject, catalog: Catalog, validator: Validator, now_us: int, marks: Marks | None = None
) -> PreparedEvent:
    """Validate, split and salt an event document; `marks` None takes those of the catalog.

    Raises:
        InvalidEvent: with the JSON Pointer and the reason; nothing was sent.
    """
    try:
        encoded = canonical.encode(document)
    except ProfileError as error:
        raise InvalidEvent(error.reason, pointer=error.pointer) from error
    validator.check(document, encoded, now_us=now_us)
    chosen = catalog.marks(document["event_type"]) if marks is None else marks
    parts = sections.split(document, chosen)
    salts = Salts.draw()
    commit = sections.commitments(parts, salts).event_commit()
    is_plain = not sections.has_marked(document, chosen) or parts == sections.split(document)
    listed = None if is_plain else _pointer_lists(parts)
    return PreparedEvent(document["id"], document, encoded, salts.pack(), listed, commit)


def prepare_invalid(document: JsonObject) -> PreparedEvent:
    """Make ready an event that is invalid, for the collector to keep in its quarantine.

    Raises:
        InvalidEvent: it cannot even be written down as JSON, or is longer than any collector keeps.
    """
    try:
        encoded = orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str)
    except (TypeError, ValueError) as error:
        raise InvalidEvent(f"cannot be written as JSON: {error}") from error
    if len(encoded) > MAX_INVALID_BYTES:
        raise InvalidEvent(f"is longer than {MAX_INVALID_BYTES} bytes, too long even for the quarantine")
    salts = Salts.draw()
    return PreparedEvent(str(document.get("id")), document, encoded, salts.pack(), None, _commit(encoded, salts))


def _commit(encoded: bytes, salts: Salts) -> bytes:
    """Return what a leaf would hold: another collector, with another catalog, may find the event valid."""
    try:
        return sections.commitments(sections.split(canonical.parse_canonical(encoded)), salts).event_commit()
    except FormatError:
        return NO_COMMIT


def _pointer_lists(parts: sections.Sections) -> str:
    actor, target = sections.pointers(parts)
    return canonical.encode({"actor": list(actor), "target": list(target)}).decode()
