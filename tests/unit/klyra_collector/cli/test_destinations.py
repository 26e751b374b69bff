"""`klyra-audit destination`, on a data directory whose follower does not run."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from klyra_audit.format.keys import VerifyingKey
from klyra_collector.cli import destinations
from klyra_collector.data_directory import DataDirectory
from klyra_collector.dead_letters import DeadLetter, DeadLetters
from klyra_collector.destination_status import DestinationStatus, State, write_status
from klyra_collector.seal.durable import Disk
from support import sink as sinks
from support.ports import free_ports
from support.records import record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger
from support.sink import Answer

RUNNING = DestinationStatus(
    name="back",
    kind="otlp",
    endpoint="",
    since_us=MIDSUMMER_US,
    entries=12,
    retried=3,
    skipped={"control": 4},
    succeeded_us=MIDSUMMER_US,
    error="503: full",
    error_us=MIDSUMMER_US,
)


@pytest.fixture
def configured(data, tmp_path):
    """A ledger, and a configuration with one destination; a function that gives its endpoint."""
    ledger = open_ledger(data, SetClock())
    ledger.commit([submission(*(record() for _ in range(5)))])
    ledger.close()
    DataDirectory(data).cursors.mkdir()

    def configure(endpoint: str = "http://127.0.0.1:1/v1/logs", extra: str = "") -> DataDirectory:
        text = f'[[destination]]\nname = "back"\nendpoint = "{endpoint}"\n{extra}'
        (tmp_path / "klyra-audit.toml").write_text(text)
        return DataDirectory(data)

    return configure


def test_list_before_the_first_delivery(run, configured) -> None:
    """A destination that never ran is shown as such, and is no alarm."""
    configured()
    status, output, _ = run(destinations.app, "list", "--json")
    [row] = json.loads(output)
    assert (status, row["state"], row["signing_key"]) == (0, "never ran", None)


def test_list(run, configured) -> None:
    """State, lag as it is now, counts and the last error; what a former destination left behind is not shown."""
    data = configured()
    for name in ("back", "former"):
        write_status(data.cursors, replace(RUNNING, name=name))
    status, output, _ = run(destinations.app, "list", "--json")
    [row] = json.loads(output)
    assert (status, row["state"], row["entries"], row["skipped"]) == (0, "delivering", 12, {"control": 4})
    assert row["lag_entries"] > 5
    assert (row["error"], row["error_at"]) == ("503: full", "2026-06-21T00:00:00.000Z")
    _, output, _ = run(destinations.app, "list")
    assert "back: last error 2026-06-21T00:00:00.000Z: 503: full" in output


@pytest.mark.parametrize("state", [State.PAUSED, State.HALTED])
def test_list_alarms(run, configured, state) -> None:
    """What needs an operator makes the exit status 1."""
    write_status(configured().cursors, replace(RUNNING, state=state))
    status, output, _ = run(destinations.app, "list")
    assert (status, state.value in output) == (1, True)


def test_without_destinations(run, data) -> None:
    """Nothing configured is nothing wrong."""
    assert run(destinations.app, "list", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (sinks.TAKEN, 0, "back answers: it would take entries.\n"),
        (Answer(403), 1, "back refuses us: 403 Forbidden\n"),
        (Answer(503), 2, "back cannot take entries now: 503 Service Unavailable\n"),
    ],
)
def test_test(run, configured, answer, status, said) -> None:
    """The three things a destination can say."""
    with sinks.listening() as sink:
        sink.decide = lambda _: answer
        configured(sink.url)
        assert run(destinations.app, "test", "back")[:2] == (status, said)


def test_test_of_nobody(run, configured) -> None:
    """No answer is not a refusal."""
    [port] = free_ports(1)
    configured(f"http://127.0.0.1:{port}/v1/logs")
    status, output, _ = run(destinations.app, "test", "back")
    assert (status, "no_answer" in output) == (2, True)


@pytest.mark.parametrize(
    ("extra", "words", "said"),
    [
        ("", ("test", "forth"), "no destination forth is configured; there is back."),
        ("", ("dead-letters", "forth"), "no destination forth is configured; there is back."),
        ('kind = "splonk"', ("test", "back"), "of kind splonk, which no installed module knows."),
        ('headers = {a = "env:ABSENT"}', ("test", "back"), "destination.back.headers.a refers to env:ABSENT"),
        ('headers = {a = "s3cret"}', ("list",), "must be env:NAME or file:PATH each, not the value itself"),
    ],
)
def test_what_cannot_be_done(run, configured, extra, words, said) -> None:
    """Exit 2 with a word on why; a secret that was written into the file is not repeated."""
    configured(extra=extra)
    status, output, error = run(destinations.app, *words)
    assert (status, output) == (2, "")
    assert said in " ".join(error.split())
    assert "s3cret" not in error


def test_dead_letters(run, configured) -> None:
    """What was refused, by whom it was sent, where it stands."""
    data = configured()
    with contextlib.closing(Disk()) as disk:
        DeadLetters(data.cursors, "back", disk).add(
            [
                DeadLetter(
                    origin="log/c1/2026",
                    index=7,
                    entry_id="log_x",
                    organization_id="org_a",
                    status="413",
                    refused_us=MIDSUMMER_US,
                )
            ]
        )
    _, output, _ = run(destinations.app, "dead-letters", "back", "--json")
    [row] = json.loads(output)
    assert (row["entry_id"], row["index"], row["status"]) == ("log_x", 7, "413")
    assert row["refused_at"] == "2026-06-21T00:00:00.000Z"
    _, output, _ = run(destinations.app, "dead-letters", "back")
    assert output.splitlines()[1].split() == ["log_x", "org_a", "413", row["refused_at"], "log/c1/2026", "7"]


def test_key(run, configured) -> None:
    """The public key that `list` shows, as PEM; the private one is nobody else's to read."""
    data = configured()
    _, pem, _ = run(destinations.app, "key")
    _, listed, _ = run(destinations.app, "list", "--json")
    vkey = json.loads(listed)[0]["signing_key"]
    assert VerifyingKey.parse(vkey).public == load_pem_public_key(pem.encode()).public_bytes_raw()
    assert (data.keys / "destination.key").stat().st_mode & 0o777 == 0o600
