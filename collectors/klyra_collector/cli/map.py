"""`klyra-audit map`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from klyra_audit.catalog import Catalog
from klyra_audit.errors import InvalidEvent, KlyraError
from klyra_audit.mapping.table import MappingTable
from klyra_audit.validation import Validator
from klyra_collector.cli.administration import COULD_NOT, FOUND_WRONG, ConfigOption, answer, answer_table, say
from klyra_collector.cli.map_samples import read_samples
from klyra_collector.config import Settings
from klyra_collector.receive.forward.tags import TagTypes
from klyra_collector.receive.opening import RequestOpener
from klyra_collector.receive.senders import Sender
from klyra_collector.receive.signing_keys import load_keys
from klyra_collector.receive.signing_processor import SignatureCheck
from klyra_collector.receive.wire import WireRecord
from klyra_collector.stages import Tenancy
from klyra_collector.validate.judge import judge

app = typer.Typer(add_completion=False)

_KEPT: Final = ("attributes", "resource", "body")
_HEADINGS = ("TARGET", "FROM", "VALUE")
_LONGEST_CELL = 100
_KEY = "key_example"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What became of one record.

    Attributes:
        origins: by target, what gave it; None for a record in our own form, which is not mapped.
        document: the event document; None if there is none.
        fault: why it would be quarantined; None if it would be sealed.
        names: what the record and its resource bring along.
    """

    origins: Mapping[str, str] | None
    document: dict[str, Any] | None
    fault: InvalidEvent | None
    names: Sequence[str]


@app.command(name="map")
def map_samples(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Sample records in JSON; - for standard input.")],
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what gave each member, and what of the record went where.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array with everything.")] = False,
    organization: Annotated[
        str, typer.Option("--organization", metavar="ORG_ID", help="The organization of the key that sends it.")
    ] = "org_example",
    config: ConfigOption = None,
) -> None:
    """Show the events that other programs' records would become, exactly as the collector maps them.

    A sample is an OTLP/JSON request, a single logRecord of one, or a Forward record with its tag; several may stand
    one a line. For example, what is missing of a record as fluent-bit would send it:

        echo '{"tag": "shop", "record": {"user.id": "u-17"}}' | klyra-audit map --explain -

    What is missing can be added in the configuration, section mapping: see docs/mapping.md.

    Exit status: 0 all would be sealed, 1 one would be quarantined, 2 the sample or the configuration cannot be read.
    """
    try:
        explanations = _explain_all(_read(file), organization, Settings.load(config))
    except (KlyraError, OSError) as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error
    if as_json:
        answer(orjson.dumps([_members(item) for item in explanations], option=orjson.OPT_INDENT_2).decode())
    else:
        for number, explanation in enumerate(explanations, 1):
            _print(number, explanation, explain=explain)
    if any(item.fault for item in explanations):
        raise typer.Exit(FOUND_WRONG)


def _read(file: str) -> bytes:
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


def _explain_all(content: bytes, organization_id: str, settings: Settings) -> list[Explanation]:
    catalog = Catalog.load(settings.catalog)
    now_ns = time.time_ns()
    records = read_samples(content, TagTypes(settings.forward.event_types), now_ns)
    opener = RequestOpener(
        Sender(_KEY, organization_id, ()),
        content,
        now_ns // 1000,
        MappingTable(catalog, settings.mapping.additions()),
        signatures=SignatureCheck(load_keys(settings.signing_processor)),
        origins={},
    )
    validator = Validator(catalog)
    return [_explain(opener, validator, item, position) for position, item in enumerate(records)]


def _explain(opener: RequestOpener, validator: Validator, item: WireRecord, position: int) -> Explanation:
    """Take a record the way the pipeline does, up to the seal."""
    document, fault = None, None
    try:
        candidate = opener.open(item, position)
        document = candidate.document
        tenancy = Tenancy(opener.sender.organization_id or "", "business", "business", 90)
        judge(candidate, tenancy, validator, opener.received_us, opener.sender.key_id)
    except InvalidEvent as error:
        fault = error
    origins = (opener.origins or {}).get(position)
    return Explanation(origins=origins, document=document, fault=fault, names=_names(item))


def _names(item: WireRecord) -> list[str]:
    try:
        record = item.foreign()
    except InvalidEvent:
        return []
    body = [f"body:{name}" for name in record.body] if isinstance(record.body, dict) else []
    event_name = ["record:event_name"] if record.event_name else []
    return [*event_name, *record.attributes, *body, *(f"resource:{name}" for name in item.resource)]


def _members(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation for programs."""
    document, fault = explanation.document, explanation.fault
    return {
        "valid": fault is None,
        "fault": fault and {"pointer": fault.pointer, "reason": fault.reason, "code": fault.code},
        "mapped": explanation.origins is not None,
        "assignments": [
            {"target": target, "from": origin, "value": value} for target, origin, value in _rows(explanation)
        ],
        "kept": _kept(document),
        "names": explanation.names,
        "document": document,
    }


def _rows(explanation: Explanation) -> list[tuple[str, str, Any]]:
    """Return (target, what gave it, value), in the order of the document."""
    if explanation.document is None or explanation.origins is None:
        return []
    found = [(target, origin, _value(explanation.document, target)) for target, origin in explanation.origins.items()]
    order = {member: number for number, member in enumerate(explanation.document)}
    return sorted(found, key=lambda row: order[row[0].partition(".")[0]])


def _value(document: Mapping[str, Any], target: str) -> object:
    member, _, inner = target.partition(".")
    return document[member].get(inner) if inner else document[member]


def _kept(document: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Return the names that found no place of their own, by the member of the metadata that keeps them."""
    metadata = {} if document is None else document["metadata"]
    return {f"metadata.{name}": sorted(metadata[name]) for name in _KEPT if isinstance(metadata.get(name), dict)}


def _print(number: int, explanation: Explanation, *, explain: bool) -> None:
    document, fault = explanation.document, explanation.fault
    if not explain:
        if document is not None and fault is None:
            answer(orjson.dumps(document).decode())
        else:
            say(f"Record {number} would be quarantined: {fault}")
        return
    answer(f"Record {number}: {_headline(explanation)}")
    rows = _rows(explanation)
    if rows:
        answer_table(_HEADINGS, [(target, _cell(origin), _cell(value)) for target, origin, value in rows])
        for place, names in _kept(document).items():
            answer(f"Kept in {place}: {', '.join(map(_cell, names))}")
    if document is not None:
        answer(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    elif explanation.names:
        answer(f"The record brings along: {', '.join(map(_cell, explanation.names))}")
    answer("Valid." if fault is None else f"Would be quarantined: {fault}")


def _headline(explanation: Explanation) -> str:
    if explanation.document is None:
        return "cannot be mapped"
    if explanation.origins is None:
        return "in our own form, nothing is mapped"
    return "mapped"


def _cell(value: object) -> str:
    """Return a value for the table; a terminal must not be driven by what somebody put into it."""
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return text if len(text) <= _LONGEST_CELL else f"{text[:_LONGEST_CELL]}…"
