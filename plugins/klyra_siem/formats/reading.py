"""Find an entry's copy in whatever a SIEM gives back, and compare what people see there with what is sealed.

Vendors wrap a record into members of their own, or into a text inside a member, or into several columns. All of that
is looked through, a few levels deep, for the object that `integrity_of` made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_audit.errors import Rejected
from klyra_siem.errors import BadDestination
from klyra_siem.formats import NATIVE, record_format
from klyra_siem.formats.integrity import MEMBER, SIGNATURE, Copy, NotACopy, read_copy
from klyra_siem.formats.text import RECORD_KEY, record_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.format.canonical import JsonObject

DEEPEST: Final = 8

# A long record is in several columns of Azure Monitor's table.
_RECORD_COLUMNS = ("Record", "Record2", "Record3", "Record4")
_OURS = re.compile(r'"(?:klyra|sections|leaf)"\s*:|klyraRecord=')
_ENTRY_ID = re.compile(r"log_[0-9a-z]{8,40}")
_TEXT_FORMAT = re.compile(r"\b(CEF|LEEF):")


class Cut(Rejected):
    """A record was cut off, so that nothing of it can be verified.

    Attributes:
        entry_id: that its beginning speaks of, "" if none.
    """

    code = "record_cut"

    def __init__(self, entry_id: str) -> None:
        super().__init__(
            "A record ends in its middle.",
            remedy="Raise the limit that cut it off, see docs/destinations, and replay from before it.",
        )
        self.entry_id = entry_id


class Differs(Rejected):
    """What a record shows is not what is sealed, though the sealed text beside it is whole."""

    code = "record_differs"


@dataclass(frozen=True, slots=True)
class Told:
    """What people see of an entry.

    Attributes:
        record: a JSON object, or a line of text.
    """

    record: JsonObject | str


def find_copy(row: object) -> tuple[Copy, Told]:
    """Return the copy in one row of an export, and the record that it stands in.

    Args:
        row: any JSON value, or a text.

    Raises:
        Cut: the record was cut off.
        NotACopy: there is none.
    """
    cut: Cut | None = None
    try:
        for told, members in _candidates(row, DEEPEST):
            return read_copy(members), told
    except Cut as error:
        cut = error
    if cut is not None:
        raise cut if cut.entry_id else Cut(_entry_id(row))
    raise NotACopy("A row holds no copy of an entry.", remedy="Export the records whole, as they were sent.")


def compare(copy: Copy, told: Told) -> None:
    """Raise `Differs` if a record shows anything but what its copy, which has no mismatch, has sealed.

    Members that the SIEM added are passed over; what was sent must be there.
    """
    name = _format_of(told.record)
    try:
        expected = record_format(name, None).encode(copy.entry())
    except BadDestination as error:
        raise _differs("its format is none that was sent") from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _differs("its sealed text is no entry") from error  # whoever forges a copy may seal anything in it
    if isinstance(told.record, str):
        if _shown(told.record) != _shown(expected.decode()):
            raise _differs("its line is not that of its sealed text")
        return
    place = _difference(_comparable(orjson.loads(expected)), _comparable(told.record), "")
    if place is not None:
        raise _differs(f"{place} is not what is sealed")


def _candidates(value: object, depth: int) -> Iterator[tuple[Told, object]]:
    """Yield every object that looks like ours, with its record; `Cut` for a text of ours that cannot be read."""
    if depth == 0:
        return
    if isinstance(value, str):
        yield from _in_text(value, depth)
    elif isinstance(value, list):
        for item in value:
            yield from _candidates(item, depth - 1)
    elif isinstance(value, dict):
        yield from _in_object(value, depth)


def _in_object(members: JsonObject, depth: int) -> Iterator[tuple[Told, object]]:
    for holder in (members, members.get("unmapped")):
        own = holder.get(MEMBER) if isinstance(holder, dict) else None
        if isinstance(own, dict) and "leaf" in own:
            yield Told(members), own
            return
    if isinstance(members.get(_RECORD_COLUMNS[0]), str):
        yield from _in_text("".join(str(members.get(name) or "") for name in _RECORD_COLUMNS), depth)
        return
    for item in members.values():
        if isinstance(item, dict | list | str):
            yield from _candidates(item, depth - 1)


def _in_text(text: str, depth: int) -> Iterator[tuple[Told, object]]:
    """Yield what stands in a text: a line of CEF or LEEF, or a JSON object with or without something before it."""
    if f"{RECORD_KEY}=" in text:
        yield Told(text), _loaded(record_in(text) or "", text)
        return
    begin = text.find("{")
    if begin < 0 or not _OURS.search(text):
        if _TEXT_FORMAT.search(text) and "|Klyra|" in text:
            raise Cut(_entry_id(text))
        return
    yield from _candidates(_loaded(text[begin:], text), depth - 1)


def _loaded(encoded: str, text: str) -> object:
    try:
        return orjson.loads(encoded)
    except orjson.JSONDecodeError as error:
        raise Cut(_entry_id(text)) from error


def _entry_id(row: object) -> str:
    """Return the first thing in a row that looks like an entry's id; "" if nothing does."""
    texts = [row] if isinstance(row, str) else [str(item) for item in row.values()] if isinstance(row, dict) else []
    found = next((match for text in texts if (match := _ENTRY_ID.search(text))), None)
    return "" if found is None else found[0]


def _format_of(record: JsonObject | str) -> str:
    """Return the name of the format that a record seems to be of."""
    if isinstance(record, str):
        found = _TEXT_FORMAT.search(record)
        return "" if found is None else found[1].lower()
    if "class_uid" in record:
        metadata = record.get("metadata")
        return f"ocsf-{metadata.get('version') if isinstance(metadata, dict) else ''}"
    return "ecs" if "ecs" in record else NATIVE


def _shown(line: str) -> str:
    """Return what of a CEF or LEEF line people see, without what syslog puts before it."""
    found = _TEXT_FORMAT.search(line)
    return line[found.start() if found else 0 : line.find(f"{RECORD_KEY}=")]


def _comparable(record: JsonObject) -> JsonObject:
    """Return a record without its signatures, which are checked with a key and cannot be made here."""
    kept = dict(record)
    for holder in ("unmapped", None):
        members = kept if holder is None else kept.get(holder)
        if isinstance(members, dict) and isinstance(members.get(MEMBER), dict):
            members = dict(members)
            members[MEMBER] = {name: value for name, value in members[MEMBER].items() if name != SIGNATURE}
            kept = members if holder is None else kept | {holder: members}
    return kept


def _difference(expected: Any, found: Any, place: str) -> str | None:  # noqa: ANN401 - any JSON value
    """Return where something that was sent is not there; None if all of it is."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return None if not expected and found is None else place
        places = (_difference(value, found.get(name), f"{place}/{name}") for name, value in expected.items())
        return next((wrong for wrong in places if wrong is not None), None)
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return None if not expected and found is None else place
        pairs = enumerate(zip(expected, found, strict=True))
        return next((wrong for n, pair in pairs if (wrong := _difference(*pair, f"{place}/{n}")) is not None), None)
    is_same_kind = isinstance(expected, bool) == isinstance(found, bool)
    return None if expected == found and is_same_kind else place


def _differs(reason: str) -> Differs:
    return Differs(
        f"A record shows something else than what is sealed: {reason}.",
        remedy="Trust the sealed text in its object klyra, and look for who can change records there.",
    )
