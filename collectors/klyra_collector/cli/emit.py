"""`klyra-audit emit`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import orjson
import typer

from klyra_audit.catalog import Catalog
from klyra_audit.emitter import AuditEmitter
from klyra_audit.errors import KlyraError, Rejected
from klyra_audit.event import Actor, AuditEvent, Resource
from klyra_audit.receipt import AlreadySealed
from klyra_collector.cli.administration import COULD_NOT, DEFAULT_DATA, FOUND_WRONG, DataOption, answer, say
from klyra_collector.cli.api import address, fail

app = typer.Typer(add_completion=False)

KeyOption = Annotated[
    str, typer.Option("--key", envvar="KLYRA_KEY", metavar="KEY", help="A key with scope emit; better as KLYRA_KEY.")
]


@app.command()
def emit(
    event_type: Annotated[str, typer.Argument(metavar="EVENT_TYPE|-", help="A type, or - for JSON lines on stdin.")],
    key: KeyOption,
    organization_id: Annotated[str, typer.Option("--org", metavar="ORG_ID", help="Whose event it is.")],
    actor: Annotated[str, typer.Option(metavar="TYPE:ID", help="user:usr_1, api_key:key_1 or system:name.")] = "",
    resource: Annotated[str, typer.Option(metavar="TYPE:ID", help="Such as moderation:mod_1.")] = "",
    status: Annotated[str, typer.Option(help="success or failure.")] = "success",
    metadata: Annotated[str, typer.Option(metavar="JSON", help='Such as \'{"content_type":"text"}\'.')] = "{}",
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="The collector; by default that of DIR/run.json.")
    ] = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Have an event sealed and print its receipt.

        klyra-audit emit user.added --org org_example --actor user:usr_1 --resource user:usr_2

        klyra-audit emit - --org org_example < events.ndjson

    A line of events.ndjson has event_type, actor, resource and, if need be, action, status, metadata, id, timestamp.
    """
    catalog = Catalog.load()
    if event_type == "-":
        wanted: Iterator[dict[str, Any]] = (orjson.loads(line) for line in sys.stdin.buffer if line.strip())
    else:
        wanted = iter([_members(event_type, actor, resource, status, metadata)])
    endpoint = url or address(data, "otlp_http")
    refused = 0
    try:
        with AuditEmitter(endpoint, api_key=key, organization_id=organization_id, catalog=catalog) as emitter:
            for members in wanted:
                refused += not _emit(emitter, _event(members, catalog))
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        fail(f"a line is no event: {type(error).__name__}: {error}. What stood before it is sealed.")
    except KlyraError as error:
        say(f"Error: {error}")
        raise typer.Exit(COULD_NOT) from error
    if refused:
        raise typer.Exit(FOUND_WRONG)


def _emit(emitter: AuditEmitter, event: AuditEvent) -> bool:
    try:
        receipt = emitter.emit(event, wait=True)
    except AlreadySealed as error:
        say(f"Sealed before: {error}")
        receipt = error.receipt
    except Rejected as error:
        say(f"Refused: {error}")
        return False
    sealed = {"record_id": receipt.record_id, "log": receipt.log, "index": receipt.index}
    answer(orjson.dumps(sealed).decode())
    return True


def _members(event_type: str, actor: str, resource: str, status: str, metadata: str) -> dict[str, Any]:
    return {
        "event_type": event_type,
        "actor": _named("--actor", actor),
        "resource": _named("--resource", resource),
        "status": status,
        "metadata": orjson.loads(metadata),
    }


def _named(option: str, text: str) -> dict[str, str]:
    kind, separator, identifier = text.partition(":")
    if not separator:
        fail(f"{option} must be TYPE:ID, such as user:usr_1.")
    return {"type": kind, "id": identifier}


def _event(members: dict[str, Any], catalog: Catalog) -> AuditEvent:
    known = catalog.get(members["event_type"])
    actor, resource = members["actor"], members["resource"]
    return AuditEvent(
        event_type=members["event_type"],
        actor=Actor(actor["type"], actor["id"], actor.get("name")),
        resource=Resource(resource["type"], resource["id"], resource.get("name")),
        action=members.get("action") or (known.action if known else ""),
        status=members.get("status", "success"),
        metadata=members.get("metadata", {}),
        id=members.get("id"),
        timestamp=members.get("timestamp"),
    )
