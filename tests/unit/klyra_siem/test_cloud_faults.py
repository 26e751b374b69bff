"""Whatever goes wrong on the way to a cloud, nothing is lost, and what is there twice is bounded.

The table of `docs/destinations/cloud-faults.md` is made here: `WRITE_TABLES=1` writes it, else it is compared.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klyra_siem.outcome import Action
from support.siem import azure, google, moto
from support.siem.cloud import entry, send
from support.siem.cloud_server import Fault, Reply
from support.siem.clouds import CLOUDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klyra_siem.destination import SealedEntry
    from support.siem.clouds import Cloud

for library in ("moto", "azure.identity", "google.cloud.logging_v2"):
    pytest.importorskip(library, reason=f"for want of {library}")

TABLE = Path(__file__).resolve().parents[3] / "docs" / "destinations" / "cloud-faults.md"
WAIT = {"Retry-After": "7"}
REDIRECT = {"Location": "http://127.0.0.1:1/"}
PAGE = {"Content-Type": "text/html"}


def _aws(status: int, kind: str) -> Reply:
    return Reply(status, f'{{"__type": "{kind}"}}'.encode(), {"Content-Type": moto.CONTENT_TYPE, **WAIT})


# What a vendor says itself in place of an answer that any server gives.
OWN = {
    "cloudwatch": {
        401: _aws(400, "UnrecognizedClientException"),
        403: _aws(400, "AccessDeniedException"),
        429: _aws(400, "ThrottlingException"),
    },
    "azure-monitor": {
        403: azure.refusal(403, "OperationFailed"),
        413: azure.refusal(413, "ContentLengthLimitExceeded"),
        429: azure.refusal(429, "TooManyRequests", **WAIT),
    },
    "google-cloud-logging": {
        401: google.refusal(401, "no"),
        403: google.refusal(403, "no"),
        404: google.refusal(404, "no"),
        429: Reply(429, google.refusal(429, "no", code="RESOURCE_EXHAUSTED").body, {**google.JSON, **WAIT}),
    },
}
FAULTS = {
    "connection reset before the request is read": Fault(reset=True),
    "request taken, answer lost": Fault(reply_lost=True),
    "request taken, answer cut off": Fault(truncated=True),
    "no answer within the timeout": Fault(delay_seconds=3.0),
    "200 with a page of a proxy": Fault(reply=Reply(200, b"<h1>Sign in</h1>", PAGE)),
    "307 to another place": Fault(reply=Reply(307, b"", REDIRECT)),
    "401 wrong or old credentials": Fault(reply=Reply(401)),
    "403 not allowed": Fault(reply=Reply(403)),
    "404 wrong address": Fault(reply=Reply(404)),
    "408 too slow": Fault(reply=Reply(408)),
    "413 too large": Fault(reply=Reply(413)),
    "429 throttled, Retry-After 7": Fault(reply=Reply(429, b"", WAIT)),
    "500 internal": Fault(reply=Reply(500)),
    "502 of a gateway": Fault(reply=Reply(502, b"<html>", PAGE)),
    "503 Retry-After 7": Fault(reply=Reply(503, b"", WAIT)),
}


@pytest.fixture(scope="module", params=sorted(CLOUDS))
def cloud(request) -> Iterator[tuple[str, Cloud]]:
    """A vendor's kind and its service."""
    with CLOUDS[request.param]() as made:
        yield request.param, made


def told(kind: str, cloud: Cloud, name: str) -> str:
    """Return what a fault leads to, as the table says it."""
    fault = FAULTS[name]
    number = int(name[:3]) if name[:3].isdigit() else 0
    if number in OWN[kind]:
        fault = Fault(reply=OWN[kind][number])
    # A token that is refused once is replaced: only a second refusal is one.
    cloud.server.plan(fault, *([fault] if number == 401 and kind != "cloudwatch" else []))
    outcome = send(cloud.destination, [entry()])
    cloud.server.faults.clear()
    wait = "" if outcome.retry_after is None else f" after {outcome.retry_after:g} s"
    return f"{outcome.action}{wait}"


def test_the_table_of_faults(cloud) -> None:
    """What each fault leads to is what the table says; the next attempt is taken."""
    kind, made = cloud
    column = {name: told(kind, made, name) for name in FAULTS}
    assert send(made.destination, [entry()]).action is Action.DELIVERED
    if os.environ.get("WRITE_TABLES"):
        _write(kind, column)
    assert {name: row[kind] for name, row in _read().items()} == column


def _read() -> dict[str, dict[str, str]]:
    """Return the table: fault → kind → outcome."""
    cells = [line.split("|")[1:-1] for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    lines = [[cell.strip() for cell in line] for line in cells]
    kinds, *rows = lines
    return {row[0]: dict(zip(kinds[1:], row[1:], strict=True)) for row in rows}


def _write(kind: str, column: dict[str, str]) -> None:
    """Write one vendor's column into the table."""
    known = _read() if TABLE.exists() else {}
    rows = {name: {**dict.fromkeys(CLOUDS, ""), **known.get(name, {}), kind: column[name]} for name in FAULTS}
    head = "| what happens | " + " | ".join(sorted(CLOUDS)) + " |\n|" + "--|" * (len(CLOUDS) + 1)
    body = "\n".join(
        f"| {name} | " + " | ".join(row[kind] for kind in sorted(CLOUDS)) + " |" for name, row in rows.items()
    )
    TABLE.write_text(f"{INTRODUCTION}\n{head}\n{body}\n")


INTRODUCTION = """# What each failure of a cloud leads to

Made by tests/unit/klyra_siem/test_cloud_faults.py, which has each failure happen. `retry`: the same bytes again after
a random wait, or the one that was asked for. `bisect`: halves, until what is refused alone is a dead letter. `pause`:
an alarm, the cursor stays, tried again rarely. Nothing but `delivered` moves the cursor.
"""


def deliver(cloud: Cloud, batch: Sequence[SealedEntry]) -> list[str]:
    """Deliver a batch as the engine does, without its waits; return the ids that are dead letters."""
    while True:
        outcome = send(cloud.destination, batch)
        if outcome.action is Action.DELIVERED:
            return [batch[position].entry_id for position in outcome.refused]
        if outcome.action is Action.BISECT:
            if len(batch) == 1:
                return [batch[0].entry_id]
            middle = len(batch) // 2
            return deliver(cloud, batch[:middle]) + deliver(cloud, batch[middle:])


PASSING = st.sampled_from(
    [
        Fault(),
        Fault(reset=True),
        Fault(reply_lost=True),
        Fault(truncated=True),
        Fault(reply=Reply(500)),
        Fault(reply=Reply(403)),
        Fault(reply=Reply(413)),
        Fault(reply=Reply(200, b"<h1>Sign in</h1>", PAGE)),
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(PASSING, max_size=6), poisoned=st.sets(st.integers(0, 5), max_size=2))
def test_nothing_is_lost(cloud, faults, poisoned) -> None:
    """What is there and what is a dead letter is everything; a lost answer repeats its batch at most."""
    _, made = cloud
    batch = [entry(number) for number in range(6)]
    for number in poisoned:
        made.spoil(batch[number].entry_id)
    made.server.faults.clear()
    made.server.plan(*faults)
    dead = deliver(made, batch)
    ids = {item.entry_id for item in batch}
    there = [name for name in made.received() if name in ids]
    made.server.faults.clear()
    assert set(there) | set(dead) == ids
    assert {batch[number].entry_id for number in poisoned} <= set(dead)
    # A 413 for a single entry, which no real one is too large for, is the only way to a dead letter without poison.
    lost = sum(fault.reply_lost or fault.truncated for fault in faults)
    assert len(there) <= len(batch) * (1 + lost)


def test_secrets_are_in_no_outcome(cloud) -> None:
    """Whatever a vendor repeats of a request, header by header, is hidden."""
    _, made = cloud
    seen: list[str] = []
    for status in (200, 400, 403, 500):
        with contextlib.suppress(IndexError):
            last = made.server.requests[-1].headers
            secrets = [last["authorization"].removeprefix("Bearer ")]
            body = "; ".join(f"{name}: {value}" for name, value in last.items())[:190]
            made.server.plan(Fault(reply=Reply(status, body.encode(), PAGE)))
            seen += [secret for secret in secrets if secret in repr(send(made.destination, [entry()]))]
    assert not seen
