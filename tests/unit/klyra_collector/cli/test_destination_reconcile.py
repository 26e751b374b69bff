"""`klyra-audit destination reconcile`, on a real ledger whose destination has been delivered to."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from typer.testing import CliRunner

from klyra_audit import timestamps
from klyra_audit.catalog import Catalog
from klyra_collector.cli import destinations
from klyra_collector.data_directory import DataDirectory
from klyra_collector.dead_letters import DeadLetter, DeadLetters
from klyra_collector.fanout.cursor import Cursor, CursorFile
from klyra_collector.fanout.source import EntrySource
from klyra_collector.registry import Registry
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader
from klyra_siem.formats import record_format
from support.api import OPERATOR
from support.records import BUSINESS, record, submission
from support.sealing import SetClock, open_ledger
from support.siem.events import Everyone

ENTRIES = 6


class Allowed(Everyone):
    """Entitles whoever is asked about."""

    def __init__(self, references: frozenset[bytes]) -> None:
        self._references = references

    def references(self) -> frozenset[bytes]:
        """Return them."""
        return self._references


@pytest.fixture
def entries(data, tmp_path):
    """Entries that were all delivered, in a data directory with its configuration."""
    now = timestamps.from_nanoseconds(time.time_ns() // 10**9 * 10**9)
    ledger = open_ledger(data, SetClock(time.time_ns() // 1000))
    ledger.commit([submission(*(record(BUSINESS, timestamp=now) for _ in range(ENTRIES)))])
    ledger.close()
    directory = DataDirectory(data)
    directory.cursors.mkdir()
    with contextlib.closing(Registry.open(directory.registry_url, Catalog.load())) as registry:
        registry.create_organization(BUSINESS.organization_id, "enterprise", by=OPERATOR)
    (tmp_path / "klyra-audit.toml").write_text(
        '[[destination]]\nname = "back"\nkind = "splunk"\nendpoint = "https://127.0.0.1:1"\n'
        '[destination.options]\ntoken = "env:TOKEN"\n'
        '[[destination]]\nname = "forward"\nendpoint = "https://127.0.0.1:1"\n'
    )
    with contextlib.closing(LedgerReader(directory.ledger)) as reader, contextlib.closing(Disk()) as disk:
        (origin,) = reader.origins()
        end = reader.committed(origin)
        CursorFile(directory.cursors, "back", disk).save(Cursor(origin, end))
        found = [one for one in reader.read(origin, 0, end) if one.body is not None]
        references = frozenset(one.leaf.org_ref for one in found)
        source = EntrySource(reader, Allowed(references), lambda: 0)
        return [one.entry for one in source.read(origin, 0, end) if one.entry is not None]


def exported(entries, path) -> str:
    """Write what Splunk has; return where."""
    path.write_bytes(b"\n".join(record_format("native", None).encode(entry) for entry in entries))
    return str(path)


def test_everything_is_there(run, entries, tmp_path) -> None:
    """A line of figures, exit 0; with --json a line for each entry and one for the figures."""
    export = exported(entries, tmp_path / "export.json")
    status, out, _ = run(destinations.app, "reconcile", "back", "--from", "2026-01-01", export)
    assert (status, out) == (0, f"{ENTRIES} rows: {ENTRIES} OK\n")
    status, out, _ = run(destinations.app, "reconcile", "back", "--from", "2026-01-01", "--json", export)
    *answers, summary = map(json.loads, out.splitlines())
    assert (status, [one["verdict"] for one in answers]) == (0, ["OK"] * ENTRIES)
    assert [one["entry_id"] for one in answers] == [entry.entry_id for entry in entries]
    assert summary["summary"]["verdicts"] == {
        "OK": ENTRIES,
        **dict.fromkeys(("MISSING", "ALTERED", "DUPLICATE", "EXTRA", "TRUNCATED"), 0),
    }


def test_something_is_wrong(run, entries, tmp_path) -> None:
    """Each entry that is not OK is named with the reason, exit 1."""
    data = DataDirectory(tmp_path / "data")
    refused = entries[1]
    letter = DeadLetter(
        origin=refused.origin,
        index=refused.index,
        entry_id=refused.entry_id,
        organization_id=refused.organization_id,
        status="400",
        refused_us=1,
    )
    with contextlib.closing(Disk()) as disk:
        DeadLetters(data.cursors, "back", disk).add([letter])
    export = exported([entries[0], *entries[3:], entries[3]], tmp_path / "export.json")
    status, out, _ = run(destinations.app, "reconcile", "back", "--from", "2026-01-01", export)
    lines = out.splitlines()
    assert status == 1
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["MISSING", entries[1].entry_id],
        ["MISSING", entries[2].entry_id],
        ["DUPLICATE", entries[3].entry_id],
    ]
    assert ["dead letter" in line for line in lines[:2]] == [True, False]
    assert lines[-1] == f"{ENTRIES - 1} rows: 3 OK, 2 MISSING, 1 DUPLICATE"


def test_the_window_and_the_standard_input(data, entries) -> None:
    """Nothing of another time is missing; an export may come through a pipe."""
    row = record_format("cef", None).encode(entries[0])
    arguments = ["reconcile", "back", "--from", "2020-01-01", "--to", "2020-01-02T00:00:00Z", "-"]
    result = CliRunner().invoke(destinations.app, arguments, input=row)
    assert (result.exit_code, result.stdout) == (0, "1 rows: 1 OK\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("other", "--from", "2026-01-01", "export"), "No destination other is configured; there is back, forward."),
        (("forward", "--from", "2026-01-01", "export"), "of OpenTelemetry's own form"),
        (("back", "--from", "yesterday", "export"), "yesterday is no time"),
        (("back", "--from", "2026-01-01", "--to", "x", "export"), "x is no time"),
        (("back", "--from", "2026-01-01", "absent"), "absent cannot be read"),
        (("back", "--from", "2026-01-01", "empty"), "The export has no rows"),
        (("back", "--from", "2026-01-01", "half"), "ends in its middle"),
    ],
)
def test_what_cannot_be_compared(run, entries, tmp_path, arguments, told) -> None:
    """The message says what to do, exit 2."""
    exported(entries, tmp_path / "export")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "half").write_bytes(b'[{"a": 1}, ')
    status, _, error = run(destinations.app, "reconcile", *arguments)
    assert (status, told in error) == (2, True)
