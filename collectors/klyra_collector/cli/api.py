"""What the commands that ask the API share: its address, the key, the filters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import orjson
import typer

from klyra_collector.cli.administration import COULD_NOT, FOUND_WRONG, say
from klyra_collector.data_directory import DataDirectory

KeyOption = Annotated[
    str, typer.Option("--key", envvar="KLYRA_KEY", metavar="KEY", help="An API key; better given as KLYRA_KEY.")
]
UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The address; by default that of DIR/run.json.")
]
Texts = list[str]


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters as the API takes them; empty ones are left out."""

    members: dict[str, Any]

    def body(self, **more: object) -> bytes:
        """Return the JSON body of a search or export."""
        given = {name: value for name, value in {**self.members, **more}.items() if value not in (None, [], "")}
        return orjson.dumps(given)


def filters(
    start_time: str | None,
    end_time: str | None,
    event_types: Texts | None,
    actor_ids: Texts | None,
    resource_ids: Texts | None,
    status: str | None,
    client_ip: str | None,
    action: Texts | None,
) -> Filters:
    """Return the filters of a command's options."""
    return Filters(
        {
            "start_time": start_time,
            "end_time": end_time,
            "event_types": event_types,
            "actor_ids": actor_ids,
            "resource_ids": resource_ids,
            "status": status,
            "client_ip": client_ip,
            "actions": action,
        }
    )


StartOption = Annotated[str | None, typer.Option("--start", metavar="TIME", help="From, such as 2026-06-01T00:00:00Z.")]
EndOption = Annotated[str | None, typer.Option("--end", metavar="TIME", help="Until, inclusive at its precision.")]
TypeOption = Annotated[Texts | None, typer.Option("--type", metavar="TYPE", help="Event type; repeat for more.")]
ActorOption = Annotated[Texts | None, typer.Option("--actor", metavar="ID", help="Actor id; repeat for more.")]
ResourceOption = Annotated[Texts | None, typer.Option("--resource", metavar="ID", help="Resource id; repeat for more.")]
StatusOption = Annotated[str | None, typer.Option("--status", help="success or failure.")]
ActionOption = Annotated[Texts | None, typer.Option("--action", help="create, read, update or delete.")]
IpOption = Annotated[
    str | None, typer.Option("--client-ip", metavar="ADDRESS", help="Address or block such as 192.0.2.0/24.")
]


def client(url: str | None, key: str, data: Path) -> httpx.Client:
    """Return a client of the API that runs on a data directory, or of the one at `url`."""
    return httpx.Client(base_url=url or address(data, "api"), headers={"Authorization": f"Bearer {key}"}, timeout=60)


def address(data: Path, name: str) -> str:
    """Return an address of the `serve` that runs on a data directory; exit 2 if none does."""
    path = DataDirectory(data).run_json
    try:
        return str(orjson.loads(path.read_bytes())[name])
    except (OSError, orjson.JSONDecodeError, KeyError):
        fail(f"nothing runs on {data}. Start it with: klyra-audit serve --data {data}; or name another with --url.")


def refuse(response: httpx.Response) -> NoReturn:
    """Say what the API answered, and exit."""
    try:
        problem = orjson.loads(response.content)
        text = f"{problem.get('title', '')}: {problem.get('detail', '')} {problem.get('remedy') or ''}"
    except (orjson.JSONDecodeError, AttributeError):
        text = response.text[:200]
    say(f"Error: HTTP {response.status_code} {text.strip()}")
    raise typer.Exit(COULD_NOT if response.is_server_error else FOUND_WRONG)


def fail(text: str) -> NoReturn:
    """Say why a command could not do its work, and exit."""
    say(f"Error: {text}")
    raise typer.Exit(COULD_NOT)
