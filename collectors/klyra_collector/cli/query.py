"""`klyra-audit query`."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import orjson
import typer

from klyra_collector.cli import api
from klyra_collector.cli.administration import DEFAULT_DATA, DataOption, answer, answer_table, say

app = typer.Typer(add_completion=False)

_HEADINGS = ("TIME", "EVENT", "ACTOR", "RESOURCE", "ACTION", "STATUS", "CLIENT IP", "ID")


@app.command()
def query(
    key: api.KeyOption,
    start: api.StartOption = None,
    end: api.EndOption = None,
    event_type: api.TypeOption = None,
    actor: api.ActorOption = None,
    resource: api.ResourceOption = None,
    status: api.StatusOption = None,
    client_ip: api.IpOption = None,
    action: api.ActionOption = None,
    limit: Annotated[int, typer.Option(help="At most so many, 1 to 1000.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print the entries as JSON lines.")] = False,
    url: api.UrlOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Search entries, newest first.

    For example, what failed from one network:

        KLYRA_KEY=… klyra-audit query --status failure --client-ip 198.51.100.0/24
    """
    wanted = api.filters(start, end, event_type, actor, resource, status, client_ip, action)
    try:
        with api.client(url, key, data) as client:
            response = client.post("/v1/audit-logs/search", content=wanted.body(limit=limit), headers=_JSON)
    except httpx.TransportError as error:
        api.fail(f"the API does not answer: {error}")
    if response.status_code != httpx.codes.OK:
        api.refuse(response)
    page = orjson.loads(response.content)
    for warning in page.get("warnings", []):
        say(f"Warning: {warning}")
    if as_json:
        for entry in page["data"]:
            answer(orjson.dumps(entry).decode())
    else:
        answer_table(_HEADINGS, [_row(entry) for entry in page["data"]])
    if page["has_more"]:
        say("There are more; raise --limit, narrow the filters, or export them.")


_JSON = {"Content-Type": "application/json"}


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    actor, resource = entry["actor"], entry["resource"]
    cells = (
        entry["timestamp"],
        entry["event_type"],
        f"{actor['type']}:{actor['id']}",
        f"{resource['type']}:{resource['id']}",
        entry["action"],
        entry["status"],
        str(entry["metadata"].get("client_ip", "-")),
        entry["id"],
    )
    # A terminal must not be driven by what somebody put into a name.
    return tuple("".join(character if character.isprintable() else "\ufffd" for character in cell) for cell in cells)
