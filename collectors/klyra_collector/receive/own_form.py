"""From a record in our own form to the document, sections, salts and position it carries (DESIGN section 6)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from klyra_audit.errors import InvalidEvent
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import FormatError, ProfileError, SectionError
from klyra_audit.format.sections import Salts, Sections
from klyra_collector.stages import EmitterPosition

if TYPE_CHECKING:
    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.receive.wire import OwnForm

EMITTER_ID = "klyra.emitter.id"
EMITTER_BOOT = "klyra.emitter.boot"
MAX_SEQUENCE = 0xFFFFFFFE  # an emitter opens a new boot before 2^32 - 1

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_EMITTER_ID = re.compile(r"[\x21-\x7e]{1,256}")


class Opened(NamedTuple):
    """An event as its emitter prepared it.

    Attributes:
        document: parsed.
        encoded: its canonical bytes, as received.
        sections: split where the emitter split.
        salts: the emitter's.
    """

    document: JsonObject
    encoded: bytes
    sections: Sections
    salts: Salts


def open_own_form(own: OwnForm) -> Opened:
    """Check and split a record in our own form; `InvalidEvent` says what breaks it."""
    try:
        document = canonical.parse_canonical(own.document)
        if own.event_name != document.get("event_type"):
            raise InvalidEvent("differs from the record's event name", pointer="/event_type")
        return Opened(document, own.document, _split(document, own.sections), Salts.unpack(own.salts))
    except ProfileError as error:
        raise InvalidEvent(error.reason, pointer=error.pointer) from error
    except FormatError as error:
        raise InvalidEvent(str(error)) from error


def emitter_position(resource: dict[str, Any], own: OwnForm, *, shared: bool) -> EmitterPosition | None:
    """Return where the event stands in its emitter's sequence, None if its source keeps none.

    Raises:
        InvalidEvent: the emitter names itself, its boot or the sequence in a way that no leaf can hold.
    """
    emitter_id, boot = resource.get(EMITTER_ID), resource.get(EMITTER_BOOT)
    if own.sequence is None or boot is None or emitter_id is None:
        return None
    if not isinstance(emitter_id, str) or _EMITTER_ID.fullmatch(emitter_id) is None:
        raise InvalidEvent(f"resource attribute {EMITTER_ID} is not 1 to 256 printable ASCII characters")
    if not isinstance(boot, str) or _UUID.fullmatch(boot) is None:
        raise InvalidEvent(f"resource attribute {EMITTER_BOOT} is not a lower-case UUID")
    if not 0 <= own.sequence <= MAX_SEQUENCE:
        raise InvalidEvent("attribute klyra.emitter.seq is not between 0 and 2^32 - 2")
    return EmitterPosition(emitter_id, boot, own.sequence, shared)


def _split(document: JsonObject, listed: str | None) -> Sections:
    if listed is None:
        return sections.split(document)
    try:
        lists = orjson.loads(listed)
        actor, target = tuple(lists["actor"]), tuple(lists["target"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise SectionError("attribute klyra.sections is not an object with the lists actor and target") from error
    if not all(isinstance(pointer, str) for pointer in actor + target):
        raise SectionError("attribute klyra.sections has a pointer that is no string")
    return sections.split_at(document, actor, target)
