"""`klyra-audit destination`, on a data directory whose follower does not run."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.sections import organization_reference
from klyra_audit.timestamps import day_of
from klyra_collector.cli import destinations
from klyra_collector.data_directory import DataDirectory
from klyra_collector.dead_letters import DeadLetter, DeadLetters
from klyra_collector.destination_status import DestinationStatus, State, write_status
from klyra_collector.fanout.orders import Orders
from klyra_collector.fanout.segments import SegmentReceipts, decode, encode
from klyra_collector.fanout.signing import note_key
from klyra_collector.fanout.source import EntrySource
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.identity import open_key_files
from klyra_collector.seal.reader import LedgerReader
from support import sink as sinks
from support.ports import free_ports
from support.records import STARTUP, record, submission
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
        (sinks.TAKEN, 0, "back answers 200: it has taken the test event {}.\n"),
        (Answer(400), 1, "back refuses the event: 400 Bad Request\n"),
        (Answer(403), 1, "back refuses us: 403 Forbidden\n"),
        (Answer(503), 2, "back cannot take entries now: 503 Service Unavailable\n"),
    ],
)
def test_test(run, configured, answer, status, said) -> None:
    """The four things a destination can say to a test event, in its own words."""
    with sinks.listening() as sink:
        sink.decide = lambda _: answer
        configured(sink.url)
        ended, output, _ = run(destinations.app, "test", "back")
        assert (ended, output) == (status, said.format(*sink.ids()))


def test_test_without_an_event(run, configured) -> None:
    """A probe delivers nothing."""
    with sinks.listening() as sink:
        configured(sink.url)
        assert run(destinations.app, "test", "back", "--probe")[:2] == (
            0,
            "back answers 200: it would take entries.\n",
        )
        assert sink.ids() == []


def test_list_warns_before_a_window_closes(run, configured) -> None:
    """What waits will be too old for the destination: exit 1, with the time that is left."""
    waiting = int(time.time() * 1e6) - 9 * 3600 * 10**6
    data = configured()
    write_status(data.cursors, replace(RUNNING, window_seconds=10 * 3600, waiting_us=waiting))
    status, output, _ = run(destinations.app, "list")
    assert (status, "back: in 1.0 h what waits is too old for it" in output) == (1, True)
    _, output, _ = run(destinations.app, "list", "--json")
    assert json.loads(output)[0]["window_is_closing"] is True


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


class TestReceipts:
    """What was signed for."""

    @pytest.fixture
    def delivered(self, configured, data) -> DataDirectory:
        """Five entries that were delivered, with their receipt."""
        directory = configured()
        with contextlib.closing(Disk()) as disk, contextlib.closing(LedgerReader(directory.ledger)) as reader:
            key = note_key(open_key_files(directory, disk, None))
            receipts = SegmentReceipts(directory.cursors, "back", disk, key, days=1, wall_us=lambda: MIDSUMMER_US)
            everyone = Everyone((directory.keys / "org-salt").read_bytes())
            source = EntrySource(reader, everyone, lambda: day_of(MIDSUMMER_US))
            receipts.add([one.entry for one in source.read(reader.origins()[0], 0, 50) if one.entry])
        return directory

    def test_they_are_checked(self, run, delivered) -> None:
        """Against the ledger's leaves; the note is there for others to check."""
        status, output, _ = run(destinations.app, "receipts", "back")
        assert (status, output.split()[:4]) == (0, ["OK", "2026-06-21T00:00:00.000Z", "5", "entries"])
        status, output, _ = run(destinations.app, "receipts", "back", "--json")
        row = json.loads(output)
        assert (status, row["verdict"], row["count"]) == (0, "OK", 5)
        vkey = json.loads(run(destinations.app, "list", "--json")[1])[0]["signing_key"]
        assert decode(row["note"].encode(), VerifyingKey.parse(vkey)).root.hex() == row["root"]

    def test_a_changed_one_is_found(self, run, delivered) -> None:
        """Exit 1, and what it is."""
        (path,) = delivered.cursors.glob("back.receipts-*")
        path.write_text(path.read_text().replace("\\n5\\n", "\\n4\\n"))
        status, output, _ = run(destinations.app, "receipts", "back")
        assert (status, output.startswith("DAMAGED  A segment receipt is not as it was signed")) == (1, True)
        status, output, _ = run(destinations.app, "receipts", "back", "--json")
        assert (status, json.loads(output)["verdict"]) == (1, "DAMAGED")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"origin": "klyra-audit.test/other/2026"}, "The ledger has no such shard."),
            ({"root": bytes(32)}, "The ledger's leaves have another root."),
            ({"destination": "forth"}, "It is about forth."),
        ],
    )
    def test_one_that_is_not_so_is_found(self, run, delivered, change, said) -> None:
        """Signed, and yet no batch of this ledger."""
        (path,) = delivered.cursors.glob("back.receipts-*")
        with contextlib.closing(Disk()) as disk:
            key = note_key(open_key_files(delivered, disk, None))
        segment = decode(json.loads(path.read_text())["note"].encode(), key.verifying_key)
        path.write_text(json.dumps({"note": encode(replace(segment, **change), key).decode()}))
        status, output, _ = run(destinations.app, "receipts", "back")
        assert (status, output.startswith("WRONG"), output.strip().endswith(said)) == (1, True, True)

    def test_there_may_be_none(self, run, configured) -> None:
        """Before the first delivery nothing was signed."""
        configured()
        assert run(destinations.app, "receipts", "back")[:2] == (0, "")

    def test_of_a_stranger(self, run, configured) -> None:
        """Exit 2."""
        configured()
        status, _, error = run(destinations.app, "receipts", "forth")
        assert (status, "No destination forth is configured" in error) == (2, True)


class TestReplayOfDeadLetters:
    """`replay --dead-letters`."""

    def test_it_is_ordered(self, run, configured, data) -> None:
        """A running or a later delivery finds the order."""
        directory = configured()
        assert run(destinations.app, "replay", "back", "--dead-letters")[:2] == (0, "back has no dead letters.\n")
        letter = DeadLetter(
            origin="o", index=7, entry_id="log_x", organization_id="org_a", status="413", refused_us=MIDSUMMER_US
        )
        with contextlib.closing(Disk()) as disk:
            DeadLetters(directory.cursors, "back", disk).add([letter])
            said = run(destinations.app, "replay", "back", "--dead-letters")[:2]
            assert said == (0, "back is sent 1 dead letters again.\n")
            assert Orders(directory.cursors, "back", disk).wants_letters()

    @pytest.mark.parametrize("words", [[], ["--dead-letters", "--from-index", "0"]])
    def test_one_thing_at_a_time(self, run, configured, words) -> None:
        """Exit 2 says what can be replayed."""
        configured()
        status, _, error = run(destinations.app, "replay", "back", *words)
        assert (status, "--from TIME, --from-index N or --dead-letters" in error) == (2, True)


class Everyone:
    """Entitles the organization of the records."""

    def __init__(self, salt: bytes) -> None:
        self._references = frozenset({organization_reference(salt, STARTUP.organization_id)})

    def references(self) -> frozenset[bytes]:
        """Return it."""
        return self._references

    def refresh(self) -> bool:
        """Say that this does not change."""
        return True
