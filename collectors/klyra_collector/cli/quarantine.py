"""`klyra-audit quarantine`: inputs that were no valid events."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import orjson
import typer

from klyra_collector.cli import api
from klyra_collector.cli.administration import (
    DEFAULT_DATA,
    FOUND_WRONG,
    DataOption,
    answer,
    answer_json,
    answer_table,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help=(
        "Inputs that were no valid events: kept with the reason, and taken in again once what they failed at is mended."
        "\n\nWith a key of the organization in KLYRA_KEY: scope read to look, admin to replay."
    ),
)

_HEADINGS = ("RECEIVED", "SOURCE", "ENCODING", "POINTER", "REASON", "STATE", "ID")
_OUTCOMES = ("ID", "STATUS", "ENTRY", "POINTER", "REASON")
_SOURCES = ("SOURCE", "ENCODING", "RECORDS", "WAITING", "NEWEST")
_REASONS = ("POINTER", "REASON", "RECORDS", "WAITING")
_REPLAY_SECONDS = 60.0

SourceOption = Annotated[
    list[str] | None, typer.Option("--source", metavar="KEY", help="Id of a key that brought them; repeat for more.")
]
EncodingOption = Annotated[
    list[str] | None, typer.Option("--encoding", help="Such as otlp-protobuf, otlp-json or forward; repeat for more.")
]
PointerOption = Annotated[
    str | None, typer.Option("--pointer", metavar="POINTER", help="How the JSON Pointer begins, such as /metadata.")
]
OrganizationOption = Annotated[
    str | None, typer.Option("--org", metavar="ORG_ID", help="Whose; needed with a key of the operator alone.")
]
LimitOption = Annotated[int, typer.Option(help="At most so many, 1 to 1000.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_inputs(
    key: api.KeyOption,
    start: api.StartOption = None,
    end: api.EndOption = None,
    source: SourceOption = None,
    encoding: EncodingOption = None,
    pointer: PointerOption = None,
    state: Annotated[str | None, typer.Option(help="waiting or replayed; both by default.")] = None,
    limit: LimitOption = 50,
    organization: OrganizationOption = None,
    as_json: JsonOption = False,
    url: api.UrlOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """List inputs, newest first, each with the reason and the place in it.

    For example, what waits because of its metadata:

        KLYRA_KEY=… klyra-audit quarantine list --state waiting --pointer /metadata
    """
    asked = _filters(start, end, source, encoding, pointer, organization)
    page = _get("/v1/quarantine", asked | {"state": state, "limit": limit}, url, key, data)
    if as_json:
        answer_json(page["data"])
    else:
        answer_table(_HEADINGS, [_row(item) for item in page["data"]])
    if page["has_more"]:
        say("There are more; raise --limit or narrow the filters.")


@app.command()
def show(
    key: api.KeyOption,
    reference: Annotated[str, typer.Argument(metavar="ID", help="As `list` has it, qtn_….")],
    organization: OrganizationOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="Write what came, byte for byte, and nothing else.")] = False,
    as_json: JsonOption = False,
    url: api.UrlOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Show one input: why it is no event, where it came from, and what came.

    The bytes are checked against the ledger; exit 1 if they are gone or are not those that were sealed.
    """
    found = _get(f"/v1/quarantine/{reference}", {"organization_id": organization}, url, key, data)
    if raw:
        _write_content(found)
    elif as_json:
        answer(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        _show(found)
    if found["bytes"] in ("altered", "missing"):
        say(f"The bytes are {found['bytes']}. See what else is wrong with: klyra-audit verify")
        raise typer.Exit(FOUND_WRONG)


@app.command()
def summary(
    key: api.KeyOption,
    start: api.StartOption = None,
    end: api.EndOption = None,
    state: Annotated[str | None, typer.Option(help="waiting or replayed; both by default.")] = None,
    organization: OrganizationOption = None,
    as_json: JsonOption = False,
    url: api.UrlOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Count inputs by source and by reason, the most frequent first: whom to tell, and what to mend."""
    asked = _filters(start, end, None, None, None, organization) | {"state": state}
    found = _get("/v1/quarantine/summary", asked, url, key, data)
    if as_json:
        answer(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    counts = [(str(item["records"]), str(item["waiting"])) for item in found["sources"]]
    sources = [
        (_printable(item["key"] or "-"), item["encoding"], *count, item["newest_at"])
        for item, count in zip(found["sources"], counts, strict=True)
    ]
    answer_table(_SOURCES, sources)
    answer("")
    reasons = [
        (_printable(item["pointer"] or "-"), _printable(item["reason"]), str(item["records"]), str(item["waiting"]))
        for item in found["reasons"]
    ]
    answer_table(_REASONS, reasons)


@app.command()
def replay(
    key: api.KeyOption,
    references: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `list` has them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that waits.")] = False,
    start: api.StartOption = None,
    end: api.EndOption = None,
    source: SourceOption = None,
    encoding: EncodingOption = None,
    pointer: PointerOption = None,
    limit: LimitOption = 100,
    organization: OrganizationOption = None,
    as_json: JsonOption = False,
    url: api.UrlOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Take inputs in again, after the schema, the mapping or the catalog was mended and the collector restarted.

    Name them, or choose those that wait by filters; the oldest come first. What is valid by now becomes an entry;
    what still is none stays where it is, with the new reason. Replaying again what was replayed changes nothing.
    For example, what one key brought:

        KLYRA_KEY=… klyra-audit quarantine replay --source key_1a2b3c4d5e6f

    Exit 1 if any is still refused, or is not there.
    """
    chosen = _filters(start, end, source, encoding, pointer, organization)
    asked = chosen | {"ids": references or None, "all": everything or None, "limit": limit}
    body = orjson.dumps({name: value for name, value in asked.items() if value is not None})
    headers = {"Content-Type": "application/json"}
    try:
        with api.client(url, key, data) as client:
            response = client.post("/v1/quarantine/replay", content=body, headers=headers, timeout=_REPLAY_SECONDS)
    except httpx.TransportError as error:
        api.fail(f"the API does not answer: {error}")
    if response.status_code not in (httpx.codes.OK, httpx.codes.ACCEPTED):
        api.refuse(response)
    _tell(orjson.loads(response.content), as_json=as_json)


def _tell(answered: dict[str, Any], *, as_json: bool) -> None:
    """Print what became of replays; exit 1 if any was refused."""
    outcomes = answered["data"]
    if as_json:
        answer_json(outcomes)
    else:
        answer_table(_OUTCOMES, [_outcome(item) for item in outcomes])
    statuses = [item["status"] for item in outcomes]
    if "pending" in statuses:
        say("Those pending are not sealed yet; see what became of them with: klyra-audit quarantine list")
    if answered["has_more"]:
        say("There are more; run the command again.")
    if {"refused", "not_found"} & set(statuses):
        raise typer.Exit(FOUND_WRONG)


def _filters(
    start: str | None,
    end: str | None,
    source: Sequence[str] | None,
    encoding: Sequence[str] | None,
    pointer: str | None,
    organization: str | None,
) -> dict[str, Any]:
    return {
        "start_time": start,
        "end_time": end,
        "sources": source or None,
        "encodings": encoding or None,
        "pointer": pointer,
        "organization_id": organization,
    }


def _get(path: str, asked: dict[str, Any], url: str | None, key: str, data: Path) -> dict[str, Any]:
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        with api.client(url, key, data) as client:
            response = client.get(path, params=given)
    except httpx.TransportError as error:
        api.fail(f"the API does not answer: {error}")
    if response.status_code != httpx.codes.OK:
        api.refuse(response)
    found: dict[str, Any] = orjson.loads(response.content)
    return found


def _show(found: dict[str, Any]) -> None:
    facts = {
        "Id": found["id"],
        "Received": found["received_at"],
        "Kept until": found["expires_on"],
        "Source": f"{found['source']['key'] or '-'} ({found['source']['encoding']})",
        "Pointer": found["pointer"] or "- (the whole)",
        "Reason": found["reason"],
        "Record": f"{found['log']}#{found['index']}",
        "State": found["state"] if found["entry_id"] is None else f"replayed as {found['entry_id']}",
        "Bytes": f"{found['bytes']}, {found['size']} in all, SHA-256 {found['sha256']}",
    }
    for name, value in facts.items():
        answer(f"{name + ':':12}{_printable(value)}")
    if found["preview"] is not None:
        answer("")
        answer("\n".join(map(_printable, found["preview"].split("\n"))))


def _write_content(found: dict[str, Any]) -> None:
    """Write the input as it came, without the line that was put before it."""
    from klyra_audit.format.quarantined import KeptInput  # noqa: PLC0415 - needs more than the other commands

    if found["raw"] is None:
        api.fail(f"the bytes are {found['bytes']}.")
    kept = KeptInput.unpack(base64.b64decode(found["raw"]))
    sys.stdout.buffer.write(kept.content)
    sys.stdout.buffer.flush()


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    state = item["state"] if item["entry_id"] is None else f"replayed as {item['entry_id']}"
    source = item["source"]
    cells = (source["key"] or "-", source["encoding"], item["pointer"] or "-", item["reason"], state, item["id"])
    return (item["received_at"], *map(_printable, cells))


def _outcome(item: dict[str, Any]) -> tuple[str, ...]:
    cells = (item["id"], item["status"], item["entry_id"] or "-", item["pointer"] or "-", item["reason"] or "-")
    return tuple(map(_printable, cells))


def _printable(text: str) -> str:
    """Return a text that does not drive a terminal, whatever somebody put into it."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
