"""What customers install on their side (`dashboards/siem`), read strictly, and what it is compared with."""

from __future__ import annotations

import configparser
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from klyra_siem.formats import record_format
from klyra_siem.formats.mapping import table
from support.siem.cloud import send
from support.siem.events import sealed
from support.siem.intakes import INTAKES
from support.siem.sumo_logic import StrictSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_audit.format.canonical import JsonObject

FOLDER: Final = Path(__file__).resolve().parents[3] / "dashboards" / "siem"
ADD_ON: Final = FOLDER / "splunk" / "klyra_audit"
SCHEMES: Final = table("event_types")


def text_of(*path: str) -> str:
    """Return a shipped file's text."""
    return FOLDER.joinpath(*path).read_text(encoding="utf-8")


def json_of(*path: str) -> Any:
    """Return a shipped JSON file; a member that is there twice is an error."""
    return json.loads(text_of(*path), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    assert len(found) == len(pairs), pairs
    return found


def conf(name: str) -> configparser.ConfigParser:
    """Return a .conf file of the add-on; a setting or a stanza that is there twice is an error."""
    parsed = configparser.ConfigParser(
        interpolation=None, strict=True, delimiters=("=",), comment_prefixes=("#",), default_section=""
    )
    parsed.optionxform = str  # type: ignore[method-assign,assignment] - names keep their case
    parsed.read_string((ADD_ON / "default" / f"{name}.conf").read_text(encoding="utf-8"))
    return parsed


def members(value: Any, prefix: str = "") -> set[str]:
    """Return the dotted path of every member of a JSON value."""
    if not isinstance(value, dict):
        return {prefix}
    found = {prefix} if prefix else set()
    for name, inner in value.items():
        found |= members(inner, f"{prefix}.{name}" if prefix else name)
    return found


def all_members(values: Iterable[Any]) -> set[str]:
    """Return the paths of several values."""
    return set().union(*(members(value) for value in values))


def native() -> set[str]:
    """Return every path of the native records of all event types."""
    written = record_format("native", None)
    return all_members(json.loads(written.encode(entry)) for entry in sealed())


def received(kind: str, written: str = "native") -> list[dict[str, Any]]:
    """Return what a vendor has of an entry of each type: Splunk's events, Datadog's logs, Sumo Logic's lines."""
    entries = sealed()
    with INTAKES[kind](record=record_format(written, None)) as intake:
        intake.service.now = entries[0].filed_ns / 1e9
        send(intake.destination, entries)
        if isinstance(intake.service, StrictSource):
            return [json.loads(line) for line in intake.service.lines]
        return list(intake.service.indexed)
