"""Whatever goes wrong on the way to Splunk, Datadog or Sumo Logic, nothing is lost, and repeats are bounded.

The table of `docs/destinations/http-faults.md` is made here: `WRITE_TABLES=1` writes it, else it is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klyra_siem.outcome import Action
from support.siem import datadog, splunk, sumo_logic
from support.siem.cloud import entry, send
from support.siem.cloud_server import Fault, Reply
from support.siem.intakes import INTAKES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klyra_siem.destination import SealedEntry
    from support.siem.intakes import Intake

TABLE = Path(__file__).resolve().parents[3] / "docs" / "destinations" / "http-faults.md"
WAIT = {"Retry-After": "7"}
PAGE = {"Content-Type": "text/html"}
ACKNOWLEDGED = "splunk, acknowledged"
ON_ASKING = "splunk, asked for its acknowledgement"  # the same failures, one request later
COLUMNS = sorted((*INTAKES, ON_ASKING))


def _hec(code: int, **headers: str) -> Reply:
    reply = splunk.reply(code)
    return Reply(reply.status, reply.body, {**reply.headers, **headers})


# What a vendor says itself in place of an answer that any server gives; only 401 to 503 differ.
_OWN_SPLUNK = {401: _hec(2), 403: _hec(4), 429: _hec(26, **WAIT), 500: _hec(8), 503: _hec(9, **WAIT)}
OWN = {
    "splunk": _OWN_SPLUNK,
    "splunk, acknowledged": _OWN_SPLUNK,
    "datadog": {
        401: datadog.refusal(401, "Unauthorized"),
        403: datadog.refusal(403, "Forbidden"),
        429: Reply(429, b"{}", {"X-Ratelimit-Reset": "7"}),
    },
    "sumo-logic": {400: Reply(400, json.dumps({"errors": [{"code": "bad", "message": "no"}]}).encode())},
}
FAULTS = {
    "connection reset before the request is read": Fault(reset=True),
    "request taken, answer lost": Fault(reply_lost=True),
    "request taken, answer cut off": Fault(truncated=True),
    "no answer within the timeout": Fault(delay_seconds=3.0),
    "200 with a page of a proxy": Fault(reply=Reply(200, b"<h1>Sign in</h1>", PAGE)),
    "307 to another place": Fault(reply=Reply(307, b"", {"Location": "http://127.0.0.1:1/"})),
    "400 cannot be read": Fault(reply=Reply(400, b"no")),
    "401 no credentials": Fault(reply=Reply(401)),
    "403 wrong credentials": Fault(reply=Reply(403)),
    "404 wrong address": Fault(reply=Reply(404)),
    "408 too slow": Fault(reply=Reply(408)),
    "413 too large": Fault(reply=Reply(413)),
    "429 throttled, again after 7 s": Fault(reply=Reply(429, b"", WAIT)),
    "500 internal": Fault(reply=Reply(500)),
    "502 of a gateway": Fault(reply=Reply(502, b"<html>", PAGE)),
    "503 full, again after 7 s": Fault(reply=Reply(503, b"", WAIT)),
}


@pytest.fixture(scope="module", params=sorted(INTAKES))
def intake(request) -> Iterator[tuple[str, Intake]]:
    """A kind, and its service."""
    with INTAKES[request.param]() as made:
        yield request.param, made


def told(kind: str, intake: Intake, name: str, *, on_asking: bool = False) -> str:
    """Return what a fault leads to, as the table says it, and how often the entry is there after all."""
    fault, number = FAULTS[name], int(name[:3]) if name[:3].isdigit() else 0
    if number in OWN[kind]:
        fault = Fault(reply=OWN[kind][number])
    item = entry()
    intake.server.plan(*([Fault()] if on_asking else []), fault)
    outcome = send(intake.destination, [item])
    wait = "" if outcome.retry_after is None else f" after {outcome.retry_after:g} s"
    if outcome.action is not Action.DELIVERED:
        assert send(intake.destination, [item]).action is Action.DELIVERED
    copies = intake.received().count(item.entry_id)
    return f"{outcome.action}{wait}" + ("" if copies == 1 else f", {copies} copies")


def test_the_table_of_faults(intake) -> None:
    """What each fault leads to is what the table says; the next attempt is taken."""
    kind, made = intake
    columns = {kind: {name: told(kind, made, name) for name in FAULTS}}
    if kind == ACKNOWLEDGED:
        columns[ON_ASKING] = {name: told(kind, made, name, on_asking=True) for name in FAULTS}
    for column, expected in columns.items():
        if os.environ.get("WRITE_TABLES"):
            _write(column, expected)
        assert {name: row[column] for name, row in _read().items()} == expected


def _read() -> dict[str, dict[str, str]]:
    """Return the table: fault → kind → outcome."""
    cells = [line.split("|")[1:-1] for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    kinds, *rows = [[cell.strip() for cell in line] for line in cells]
    return {row[0]: dict(zip(kinds[1:], row[1:], strict=True)) for row in rows}


def _write(kind: str, column: dict[str, str]) -> None:
    """Write one kind's column into the table."""
    known = _read() if TABLE.exists() else {}
    rows = {name: {**dict.fromkeys(COLUMNS, ""), **known.get(name, {}), kind: column[name]} for name in column}
    head = "| what happens | " + " | ".join(COLUMNS) + " |\n|" + "--|" * (len(COLUMNS) + 1)
    lines = [f"| {name} | " + " | ".join(row[kind] for kind in COLUMNS) + " |" for name, row in rows.items()]
    TABLE.write_text("\n".join((INTRODUCTION, head, *lines, "")))


INTRODUCTION = """# What each failure of Splunk, Datadog and Sumo Logic leads to

Made by tests/unit/klyra_siem/test_http_faults.py, which has each failure happen and then delivers. `retry`: the same
bytes again after a random wait, or the one that was asked for. `bisect`: halves, until what is refused alone is a dead
letter. `pause`: an alarm, the cursor stays, tried again rarely. Nothing but `delivered` moves the cursor. Copies: how
often the entry is there in the end, where that is not once.
"""


def deliver(intake: Intake, batch: Sequence[SealedEntry]) -> tuple[list[str], int]:
    """Deliver a batch as the engine does, without its waits; return the dead letters, and how many attempts failed."""
    failed = 0
    while True:
        outcome = send(intake.destination, batch)
        if outcome.action is Action.DELIVERED:
            return [], failed
        failed += 1
        if outcome.action is Action.BISECT and len(batch) == 1:
            return [batch[0].entry_id], failed
        if outcome.action is Action.BISECT:
            middle = len(batch) // 2
            dead, more = zip(*(deliver(intake, part) for part in (batch[:middle], batch[middle:])), strict=True)
            return [*dead[0], *dead[1]], failed + sum(more)


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
        Fault(reply=Reply(200, b'{"text":"Success","code":0}', {"Content-Type": "application/json"})),
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(PASSING, max_size=6), poisoned=st.sets(st.integers(0, 5), max_size=2))
def test_nothing_is_lost(intake, faults, poisoned) -> None:
    """What is there and what is a dead letter is everything; only an attempt that failed repeats its batch."""
    kind, made = intake
    if kind != ACKNOWLEDGED:
        # A success that nobody meant cannot be told from a real one where that is all there is.
        faults = [fault for fault in faults if fault.reply is None or fault.reply.body[:1] != b"{"]
    batch = [entry(number) for number in range(6)]
    made.poison.update(batch[number].entry_id for number in poisoned)
    made.server.plan(*faults)
    dead, failed = deliver(made, batch)
    made.server.faults.clear()
    ids = {item.entry_id for item in batch}
    there = [name for name in made.received() if name in ids]
    assert set(there) | set(dead) == ids
    assert {batch[number].entry_id for number in poisoned} <= set(dead)
    assert max((there.count(name) for name in ids), default=0) <= 1 + failed
    assert failed or len(there) == len(ids)


def test_secrets_are_in_no_outcome(intake) -> None:
    """Whatever a vendor repeats of a request, its path and each header, is hidden."""
    _, made = intake
    secrets = (splunk.TOKEN, datadog.API_KEY, sumo_logic.CODE)
    for status in (200, 202, 400, 403, 500):
        last = made.server.requests[-1]
        body = "; ".join((last.path, *(f"{name}: {value}" for name, value in last.headers.items())))
        made.server.plan(Fault(reply=Reply(status, body.encode(), PAGE)))
        outcome = repr(send(made.destination, [entry()]))
        assert not [secret for secret in secrets if secret in outcome]


def test_nobody_is_there() -> None:
    """A vendor that is down is waited for."""
    for kind, make in INTAKES.items():
        with contextlib.ExitStack() as opened:
            gone = opened.enter_context(make())
            gone.server.plan(*[Fault(reset=True)] * 3)
            assert send(gone.destination, [entry()]).action is Action.RETRY, kind
