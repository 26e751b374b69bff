"""`klyra-audit export`."""

from __future__ import annotations

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


class Format(Enum):
    """What a file holds."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write; FILE.part until it is whole.")],
    key: api.KeyOption,
    form: Annotated[Format | None, typer.Option("--format", help="By default what FILE's name ends with.")] = None,
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
    """
    wanted = api.filters(start, end, event_type, actor, resource, status, client_ip, action)
    chosen = form or _by_name(file)
    partial = file.with_name(f"{file.name}.part")
    try:
        with (
            api.client(url, key, data) as client,
            client.stream(
                "POST", "/v1/audit-logs/export", content=wanted.body(format=chosen.value), headers=_JSON
            ) as response,
        ):
            if response.status_code != httpx.codes.OK:
                response.read()
                api.refuse(response)
            written = _write(response, partial)
    except httpx.TransportError as error:
        api.fail(f"the export broke off and is not complete: {error}. What came is in {partial}; start again.")
    partial.replace(file)
    window = f"{response.headers.get('Klyra-Window-Start')} to {response.headers.get('Klyra-Window-End')}"
    say(f"{written} bytes; the plan's window is {window}")
    answer(str(file))


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
    known = {f".{item.value}": item for item in Format} | {".jsonl": Format.NDJSON}
    form = known.get(file.suffix.lower())
    return form or api.fail(f"{file.name} does not say which format; give --format json, ndjson or csv.")
