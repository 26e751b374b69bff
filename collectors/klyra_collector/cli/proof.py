"""`klyra-audit proof`."""

from __future__ import annotations

import time
from typing import Annotated

import httpx
import orjson
import typer

from klyra_collector.cli import api
from klyra_collector.cli.administration import COULD_NOT, DEFAULT_DATA, DataOption, answer, say

app = typer.Typer(add_completion=False)

_ASKED_AT_MOST = 3  # each time the server waits too


@app.command()
def proof(
    entry_id: Annotated[str, typer.Argument(metavar="ID", help="The entry's id, log_….")],
    key: api.KeyOption,
    tlog_proof: Annotated[
        bool, typer.Option("--tlog-proof", help="Print the C2SP tlog-proof file alone, for other tools.")
    ] = False,
    organization: Annotated[
        str | None, typer.Option("--org", metavar="ORG_ID", help="Whose entry; for keys of the operator alone.")
    ] = None,
    url: api.UrlOption = None,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Print what proves one entry: its leaf, its sections with their salts, and the way to a signed checkpoint.

    It goes on proving the entry when the ledger is gone. The key needs the scope verify.

    Example: KLYRA_KEY=… klyra-audit proof log_01j2 > evidence.json
    """
    parameters = {} if organization is None else {"organization_id": organization}
    with api.client(url, key, data) as client:
        document = _ask(client, f"/v1/audit-logs/{entry_id}/proof", parameters)
    if tlog_proof:
        answer(str(document["tlog_proof"]).removesuffix("\n"))
    else:
        answer(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def _ask(client: httpx.Client, path: str, parameters: dict[str, str]) -> dict[str, object]:
    """Return the evidence, asking again while no checkpoint covers the entry; exit if it cannot be had."""
    for _ in range(_ASKED_AT_MOST):
        try:
            response = client.get(path, params=parameters)
        except httpx.TransportError as error:
            api.fail(f"the API does not answer: {error}.")
        if response.status_code == httpx.codes.OK:
            document: dict[str, object] = orjson.loads(response.content)
            return document
        if response.status_code != httpx.codes.ACCEPTED:
            api.refuse(response)
        time.sleep(float(response.headers.get("Retry-After", "1")))
    say("Error: no signed checkpoint covers the entry yet. Ask again in a moment, or see: klyra-audit status")
    raise typer.Exit(COULD_NOT)
