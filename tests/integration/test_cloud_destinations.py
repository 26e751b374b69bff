"""A real ledger delivered to three clouds by the engine; what is there can be verified, whatever goes wrong."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from klyra_audit import timestamps
from klyra_siem.formats import NAMES, record_format
from klyra_siem.formats.reading import compare, find_copy
from support.delivering import Bench
from support.records import BUSINESS, STARTUP, record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger
from support.siem.cloud_server import Fault, Reply
from support.siem.clouds import CLOUDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.siem.clouds import Cloud

for library in ("moto", "azure.identity", "google.cloud.logging_v2"):
    pytest.importorskip(library, reason=f"for want of {library}")

COUNT = 20
PATIENCE = 200  # steps


def sealed(root: Path) -> list[str]:
    """Seal entries of two organizations, all of this moment; return their ids in order."""
    now = timestamps.from_microseconds(MIDSUMMER_US)
    items = [record(STARTUP if number % 3 else BUSINESS, timestamp=now) for number in range(COUNT)]
    ledger = open_ledger(root, SetClock())
    ledger.commit([submission(*items)])
    ledger.close()
    return [item.record_id for item in items]


@contextlib.contextmanager
def delivering(root: Path, kind: str, written: str = "native") -> Iterator[tuple[Cloud, Bench]]:
    """Give a cloud whose clock is that of the ledger, and the delivery to it."""
    with CLOUDS[kind](record=record_format(written, None), now=MIDSUMMER_US / 1e6) as cloud:
        bench = Bench(root, cloud.destination)
        try:
            yield cloud, bench
        finally:
            bench.close()


def deliver(bench: Bench, expected: set[str], cloud: Cloud) -> set[str]:
    """Go on until all is there or a dead letter, without the waits; return the dead letters."""
    dead: set[str] = set()
    for _ in range(PATIENCE):
        bench.delivery.step()
        dead = {letter.entry_id for letter in bench.dead_letters.read()}
        cursor = bench.cursor_file.load()
        if cursor is not None and not cursor.pending and expected <= dead | set(cloud.received()):
            break
    return dead


@pytest.mark.parametrize("kind", sorted(CLOUDS))
def test_nothing_is_lost(tmp_path, kind) -> None:
    """With an answer lost, a throttling, a pause and an entry that is refused: the rest is there, in order."""
    ids = sealed(tmp_path)
    with delivering(tmp_path, kind) as (cloud, bench):
        cloud.spoil(ids[11])
        cloud.server.plan(
            Fault(reply_lost=True), Fault(reply=Reply(503)), Fault(reply=Reply(403)), Fault(truncated=True)
        )
        dead = deliver(bench, set(ids), cloud)
        received = cloud.received()
    assert dead == {ids[11]}
    assert set(received) == set(ids) - dead
    assert list(dict.fromkeys(received)) == [name for name in ids if name not in dead]
    assert len(received) <= COUNT + 2 * 8 + 3


@pytest.mark.parametrize("written", NAMES)
@pytest.mark.parametrize("kind", sorted(CLOUDS))
def test_what_is_there_can_be_verified(tmp_path, kind, written) -> None:
    """A customer's export holds, and shows, what the ledger commits to, after each vendor has had it in its hands."""
    ids = sealed(tmp_path)
    with delivering(tmp_path, kind, written) as (cloud, bench):
        bench.deliver()
        found = [find_copy(row) for row in json.loads(json.dumps(cloud.rows()))]
    assert [copy.entry_id for copy, _ in found] == ids
    assert {copy.mismatch() for copy, _ in found} == {""}
    for copy, told in found:
        compare(copy, told)
