"""`klyra-audit export`."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import httpx
import typer

from klyra_collector.cli import api
from klyra_collector.cli.administration import DEFAULT_DATA, DataOption, answer, say

app = typer.Typer(add_completion=False)

_JSON = {"Content-Type": "application/json"}
_TOLD_EVERY = 5_000_000
_AGAIN_SECONDS = 2


class Format(Enum):
    """What a file holds."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    PACKET = "packet"


class Rendering(Enum):
    """What a packet has for people."""

    CSV = "csv"
    JSON = "json"


@app.command()
def export(
    key: api.KeyOption,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Where to write; FILE.part until it is whole.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="The same as FILE.")] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="By default what FILE's name ends with; .zip is a packet.")
    ] = None,
    rendering: Annotated[
        Rendering | None, typer.Option("--rendering", help="The file for people in a packet: csv unless given.")
    ] = None,
    start: api.StartOption = None,
    end: api.EndOption = None,
    event_type: api.TypeOption = None,
    actor: api.ActorOption = None,
    resource: api.ResourceOption = None,
    status: api.StatusOption = None,
    client_ip: api.IpOption = None,
    action: api.ActionOption = None,
    url: api.UrlOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Export entries to a file; it appears under its name only when it is complete.

        KLYRA_KEY=… klyra-audit export june.csv --start 2026-06-01T00:00:00Z --end 2026-06-30T23:59:59Z
        KLYRA_KEY=… klyra-audit export --format packet --output june.zip

    A packet has with its entries all that proves them: klyra-audit verify june.zip --policy FILE. Its start and end
    are times of sealing; without other filters it shows that nothing is missing between them.
    """
    wanted = api.filters(start, end, event_type, actor, resource, status, client_ip, action)
    target = file or output or api.fail("name the file to write.")
    chosen = form or _by_name(target)
    partial = target.with_name(f"{target.name}.part")
    asked = wanted.body(format=chosen.value, rendering=rendering.value if rendering else None)
    try:
        with api.client(url, key, data) as client:
            written, headers = _fetch(client, asked, partial)
    except httpx.TransportError as error:
        api.fail(f"the export broke off and is not complete: {error}. What came is in {partial}; start again.")
    partial.replace(target)
    window = f"{headers.get('Klyra-Window-Start')} to {headers.get('Klyra-Window-End')}"
    say(f"{written} bytes; the plan's window is {window}")
    answer(str(target))


def _fetch(client: httpx.Client, asked: bytes, partial: Path) -> tuple[int, httpx.Headers]:
    """Write the answer to a file, asking on for a packet whose record is not under a checkpoint yet."""
    with client.stream("POST", "/v1/audit-logs/export", content=asked, headers=_JSON) as response:
        if response.status_code == httpx.codes.OK:
            return _write(response, partial), response.headers
        response.read()
    while response.status_code == httpx.codes.ACCEPTED:
        say("the packet is made, and waits for the checkpoint that covers its record…")
        time.sleep(float(response.headers.get("Retry-After", _AGAIN_SECONDS)))
        with client.stream("GET", response.headers["Location"]) as response:
            if response.status_code == httpx.codes.OK:
                return _write(response, partial), response.headers
            response.read()
    return api.refuse(response)


def _write(response: httpx.Response, partial: Path) -> int:
    written = told = 0
    with partial.open("wb") as output:
        for chunk in response.iter_bytes():
            output.write(chunk)
            written += len(chunk)
            if written - told >= _TOLD_EVERY:
                told = written
                say(f"{written} bytes…")
    return written


def _by_name(file: Path) -> Format:
    known = {f".{item.value}": item for item in Format} | {".jsonl": Format.NDJSON, ".zip": Format.PACKET}
    form = known.get(file.suffix.lower())
    return form or api.fail(f"{file.name} does not say which format; give --format json, ndjson, csv or packet.")
