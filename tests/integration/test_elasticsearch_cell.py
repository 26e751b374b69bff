"""A cell in a real Elasticsearch: what the small server of the unit tests says of it holds there."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from klyra_collector.data_directory import DataDirectory
from klyra_collector.errors import CellUnreachable
from klyra_collector.seal.cell import open_cell
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger
from support import elasticsearch, records
from support.cells import check_cell, check_race
from support.records import submission
from support.sealing import OPTIONS, SetClock


@pytest.fixture(scope="module")
def server(require_peer):
    """The URL of a running node."""
    require_peer("elasticsearch", elasticsearch.program())
    with elasticsearch.running() as url:
        yield url


def test_a_cell(server) -> None:
    """Empty without an index, written, replaced; nothing is replaced that is not expected."""
    check_cell(lambda: open_cell(f"elasticsearch+{server}/heads-one/collector-1"))


def test_an_empty_document_in_an_index_that_is_there(server) -> None:
    """The other answer 404."""
    open_cell(f"elasticsearch+{server}/heads-two/other").compare_and_swap(None, b"x")
    check_cell(lambda: open_cell(f"elasticsearch+{server}/heads-two/collector-1"))


def test_many_writers(server) -> None:
    """Exactly one of those that expect the same value gets its own in."""
    check_race(lambda: open_cell(f"elasticsearch+{server}/heads-three/collector-1"))


def test_a_document_that_is_no_cell(server) -> None:
    """Another program's document is left alone."""
    httpx.put(f"{server}/heads-four/_doc/one", json={"title": "not ours"}).raise_for_status()
    with pytest.raises(CellUnreachable):
        open_cell(f"elasticsearch+{server}/heads-four/one").read()


def test_a_ledger(server, tmp_path) -> None:
    """Every checkpoint is there, and the next start compares itself with it."""
    url = f"elasticsearch+{server}/heads-five/collector-1"
    for _ in range(2):
        ledger = Ledger.open(DataDirectory(tmp_path), Disk(), SetClock(), replace(OPTIONS, cell=url))
        ledger.commit([submission(records.record())])
        ledger.sign()
        (checkpoint,) = tmp_path.glob("ledger/*/checkpoint")
        assert open_cell(url).read() == checkpoint.read_bytes()
        ledger.close()
