"""A reader that goes back and forth in a ledger: a destination's attempts read their batches again."""

from __future__ import annotations

import contextlib
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from klyra_audit.format import frame
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import LedgerDamaged
from klyra_collector.seal.leaves import CommittedLeaves
from klyra_collector.seal.reader import LedgerReader
from support.records import BUSINESS, STARTUP, record, submission
from support.sealing import SetClock, open_ledger

COUNT = 3000


@pytest.fixture
def ledger(data_directory) -> LedgerReader:
    """A reader of a ledger with entries of two retention lengths."""
    opened = open_ledger(data_directory, SetClock())
    for _ in range(COUNT // 100):
        opened.commit([submission(*(record(STARTUP if number % 3 else BUSINESS) for number in range(100)))])
    opened.close()
    with contextlib.closing(LedgerReader(DataDirectory(data_directory).ledger)) as made:
        yield made


def bodies(ledger: LedgerReader, start: int, limit: int) -> dict[int, bytes]:
    """Return the core sections of some records by index."""
    found = ledger.read(ledger.origins()[0], start, limit)
    return {one.index: one.body.sections.core for one in found if one.body is not None}


def test_any_order_gives_what_reading_forward_gives(ledger) -> None:
    """From anywhere to anywhere."""
    whole = bodies(ledger, 0, COUNT + 100)
    assert len(whole) == COUNT
    places = random.Random(7)  # noqa: S311 - places to read, no secret
    for _ in range(200):
        start, limit = places.randrange(COUNT), places.randrange(1, 50)
        expected = {index: core for index, core in whole.items() if start <= index < start + limit}
        assert bodies(ledger, start, limit) == expected


def test_going_back_does_not_read_a_file_from_its_beginning(ledger, monkeypatch) -> None:
    """Otherwise each batch of a destination would cost as much as the whole day before it."""
    last = ledger.committed(ledger.origins()[0]) - 100
    bodies(ledger, 0, COUNT + 100)
    read: list[int] = []
    whole = frame.read_body_header

    def counted(buffer, offset):
        read.append(offset)
        return whole(buffer, offset)

    monkeypatch.setattr(frame, "read_body_header", counted)
    for _ in range(10):
        assert bodies(ledger, last, 10)
    assert len(read) < COUNT * 10 // 4


class TestLeaves:
    """Leaves alone, for whoever compares a copy."""

    @pytest.fixture
    def leaves(self, ledger, data_directory) -> CommittedLeaves:
        """The leaves of that ledger."""
        with contextlib.closing(CommittedLeaves(DataDirectory(data_directory).ledger)) as made:
            yield made

    def test_those_that_are_committed(self, ledger, leaves) -> None:
        """By index, to many threads at once; nothing beyond the end, nothing of another's shard."""
        (origin,) = ledger.origins()
        size = ledger.committed(origin)
        expected = {one.index: one.leaf_bytes for one in ledger.read(origin, 0, size)}
        places = random.Random(7)  # noqa: S311 - places to read, no secret
        asked = [places.sample(range(size), 50) for _ in range(40)]
        with ThreadPoolExecutor(8) as threads:
            for indexes, found in zip(asked, threads.map(lambda some: leaves.at(origin, some), asked), strict=True):
                assert found == {index: expected[index] for index in indexes}
        assert leaves.at(origin, [size, -1, 10**12]) == {}
        for other in ("other.test/collector-9/2026", origin[:-1], "../..", ""):
            assert leaves.at(other, [0]) == {}

    def test_a_shard_of_which_nothing_is_left(self, ledger, data_directory) -> None:
        """After a disaster its file may be gone: it has no leaf, and that is no error."""
        (origin,) = ledger.origins()
        folder = DataDirectory(data_directory).ledger
        ShardDirectory(folder / origin.rpartition("/")[2]).leaves.unlink()
        with contextlib.closing(LedgerReader(folder, {origin: 0})) as reader:
            assert reader.leaves(origin, [0, 1]) == {}

    def test_a_file_that_is_cut_short(self, ledger, leaves, data_directory) -> None:
        """That is damage, not an entry that somebody else wrote."""
        (origin,) = ledger.origins()
        shard = ShardDirectory(DataDirectory(data_directory).ledger / origin.rpartition("/")[2])
        os.truncate(shard.leaves, 150)
        with pytest.raises(LedgerDamaged, match="shorter than its") as damaged:
            leaves.at(origin, [0, 1])
        assert (damaged.value.code, bool(damaged.value.remedy)) == ("ledger_damaged", True)
        assert set(leaves.at(origin, [0])) == {0}
