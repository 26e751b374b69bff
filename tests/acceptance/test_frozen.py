"""What was sealed by any earlier version verifies, reads and continues for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from klyra_audit.format import policy
from klyra_audit.timestamps import day_of
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.verify import Options, Verdict, verify_target
from klyra_collector.verify.packet import verify_packet
from support import records
from support.records import BUSINESS, STARTUP, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger

FROZEN = sorted((Path(__file__).parents[1] / "vectors").glob("ledger-*"))
PACKETS = sorted((Path(__file__).parents[1] / "vectors").glob("packet-*.zip"))


@pytest.fixture(params=FROZEN, ids=lambda path: path.name)
def frozen(request, tmp_path):
    """Return a copy of each frozen data directory, its secrets private again."""
    root = tmp_path / "data"
    shutil.copytree(request.param, root)
    (root / "keys").chmod(0o700)  # a checkout keeps no modes of folders
    for secret in (root / "keys").iterdir():
        secret.chmod(0o600)
    return root


def test_the_ledger_verifies(frozen) -> None:
    """Every record of a frozen ledger is OK."""
    report = verify_target(frozen, Options())
    assert report.exit_status == 0
    assert {verdict for shard in report.shards for verdict in shard.counts} == {Verdict.OK}


def test_the_ledger_is_continued(frozen) -> None:
    """A frozen ledger opens without a cut, takes another event, and verifies with it."""
    clock = SetClock(MIDSUMMER_US + 60_000_000)
    ledger = open_ledger(frozen, clock)
    assert ledger.recovered.cut is None
    ledger.commit([submission(records.record(STARTUP))])
    ledger.close()
    assert verify_target(frozen, Options()).exit_status == 0


def test_the_store_is_read(frozen) -> None:
    """A frozen store still answers, each organization its own."""
    store = SqliteStore.open(frozen / "store.sqlite")
    counts = {}
    for tenancy in (STARTUP, BUSINESS):
        search = Search(organization_id=tenancy.organization_id, filters=Filters(), today=day_of(MIDSUMMER_US))
        counts[tenancy.organization_id] = len(store.search(search, 100))
    store.close()
    assert counts == {STARTUP.organization_id: 7, BUSINESS.organization_id: 12}


@pytest.mark.parametrize("path", PACKETS, ids=lambda path: path.name)
def test_the_packet_verifies(path) -> None:
    """A frozen packet verifies by the policy that was pinned then; what had expired in it by then is told."""
    pinned = policy.parse(path.with_suffix(".policy").read_bytes())
    report = verify_packet(path, Options(policy=pinned, require_pinned=True))
    assert report.exit_status == 0
    assert {verdict for shard in report.shards for verdict in shard.counts} == {Verdict.OK, Verdict.EXPIRED_OK}
    assert len(report.shards) == 3


def test_a_packet_is_frozen() -> None:
    """There is one to look at."""
    assert PACKETS
