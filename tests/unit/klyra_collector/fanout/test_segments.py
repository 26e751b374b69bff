"""Signed receipts of delivered batches."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format.keys import SigningKey
from klyra_collector.fanout.segments import (
    HEADING,
    Segment,
    SegmentReceiptDamaged,
    SegmentReceipts,
    decode,
    encode,
    root_of,
)
from klyra_collector.fanout.signing import KEY_NAME
from klyra_collector.seal.durable import Disk
from klyra_siem.destination import Limits
from support import sink as sinks
from support.delivering import NOTE_KEY, bench
from support.records import STARTUP, bad, record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger
from support.sink import Answer, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORIGIN = "klyra-audit.test/c1/2026"
SEGMENT = Segment(
    destination="back", origin=ORIGIN, indexes=(4, 5, 6, 9, 11, 12), root=bytes(32), confirmed_us=MIDSUMMER_US
)
DAY_US = 86_400 * 10**6


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A receiver."""
    with sinks.listening() as made:
        yield made


@pytest.fixture
def sealed(data_directory: Path) -> list[str]:
    """Twenty entries with quarantined input among them; their ids in order."""
    items = [record(STARTUP) for _ in range(20)]
    ledger = open_ledger(data_directory, SetClock())
    ledger.commit([submission(*items[:3], bad(), *items[3:])])
    ledger.close()
    return [item.record_id for item in items]


def read(receipts: SegmentReceipts) -> list[Segment]:
    """Return all that a destination has confirmed."""
    return [decode(encoded, NOTE_KEY.verifying_key) for encoded in receipts.read()]


def test_a_receipt_can_be_read_by_people_and_checked_by_anyone() -> None:
    """A signed note: which entries, how many, the root over their leaves, when."""
    encoded = encode(SEGMENT, NOTE_KEY)
    assert encoded.decode().split("\n\n")[0].splitlines() == [
        HEADING,
        "back",
        ORIGIN,
        "4-6,9,11-12",
        "6",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "2026-06-21T00:00:00.000Z",
    ]
    assert decode(encoded, NOTE_KEY.verifying_key) == SEGMENT


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("4-6", "4-7"),
        lambda text: text.replace("back", "other"),
        lambda text: text[: len(text) // 2],
        lambda _: "",
    ],
)
def test_a_changed_receipt_is_none(change) -> None:
    """Whoever changes a letter of it is found out."""
    with pytest.raises(SegmentReceiptDamaged) as caught:
        decode(change(encode(SEGMENT, NOTE_KEY).decode()).encode(), NOTE_KEY.verifying_key)
    assert caught.value.code == "segment_receipt_damaged"
    assert "cursors folder" in caught.value.remedy


def test_a_receipt_of_another_key_is_none() -> None:
    """Nobody else can say what this collector has delivered."""
    with pytest.raises(SegmentReceiptDamaged):
        decode(encode(SEGMENT, SigningKey.from_seed(KEY_NAME, b"1" * 32)), NOTE_KEY.verifying_key)


def test_a_note_that_is_signed_but_no_receipt_is_none() -> None:
    """The key signs delivered records as well; a receipt says what it is."""
    other = encode(SEGMENT, NOTE_KEY).decode().replace(HEADING, "klyra-audit segment v2").split("\n\n")[0] + "\n"
    signed = f"{other}\n{NOTE_KEY.signature_line(other)}".encode()
    with pytest.raises(SegmentReceiptDamaged, match="no segment receipt of this version"):
        decode(signed, NOTE_KEY.verifying_key)


def test_every_entry_that_was_taken_is_in_a_receipt(data_directory, sink, sealed) -> None:
    """Each exactly once, over the leaves of the ledger; what was refused is in none."""
    poison = sealed[5]

    def decide(request) -> Answer:
        ids = {item["audit.record.id"] for item in sinks.records_of(request)}
        return Answer(400) if poison in ids else sinks.TAKEN

    sink.decide = decide
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
        segments = read(delivering.receipts)
        origin = delivering.reader.origins()[0]
        leaves = {one.index: one.leaf_bytes for one in delivering.reader.read(origin, 0, 100)}
        (letter,) = delivering.dead_letters.read()
    indexes = [index for segment in segments for index in segment.indexes]
    assert (len(indexes), len(set(indexes)), letter.index in indexes) == (len(sealed) - 1, len(sealed) - 1, False)
    assert all(segment.root == root_of(leaves[index] for index in segment.indexes) for segment in segments)


def test_a_crash_before_the_cursor_moves_leaves_a_second_receipt(data_directory, sink, sealed, monkeypatch) -> None:
    """It says when the batch was taken again: a repetition is on record, too."""
    limits = Limits(entries=100, encoded_bytes=10**7)
    with bench(data_directory, sink.url, limits=limits) as delivering:
        monkeypatch.setattr(delivering.cursor_file, "save", lambda _: None)
        delivering.delivery.step()
    with bench(data_directory, sink.url, limits=limits) as delivering:
        delivering.deliver()
        first, second = read(delivering.receipts)
    assert first.indexes == second.indexes
    assert sorted(sink.ids()) == sorted(sealed * 2)


def test_receipts_are_kept_as_long_as_configured(tmp_path, data_directory, sink, sealed) -> None:
    """A file for each day; those of older days go when a new one begins, of this destination alone."""
    now = [MIDSUMMER_US]
    with bench(data_directory, sink.url) as delivering, contextlib.closing(Disk()) as disk:
        found = next(one for one in delivering.source.read(delivering.reader.origins()[0], 0, 50) if one.entry)
        other = SegmentReceipts(tmp_path, "back-2", disk, NOTE_KEY, days=2, wall_us=lambda: now[0])
        receipts = SegmentReceipts(tmp_path, "back", disk, NOTE_KEY, days=2, wall_us=lambda: now[0])
        other.add([found.entry])
        for _ in range(5):
            receipts.add([found.entry])
            receipts.add([found.entry])
            now[0] += DAY_US
    days = [(one.confirmed_us - MIDSUMMER_US) // DAY_US for one in read(receipts)]
    assert days == [2, 2, 3, 3, 4, 4]
    assert len(read(other)) == 1


def test_a_line_that_a_crash_broke_off_is_no_receipt(data_directory, sink, sealed) -> None:
    """What follows it is read."""
    limits = Limits(entries=10, encoded_bytes=10**7)
    with bench(data_directory, sink.url, limits=limits) as delivering:
        delivering.delivery.step()
        (path,) = delivering.data.cursors.glob("back.receipts-*.ndjson")
        path.write_bytes(path.read_bytes() + json.dumps({"note": "x"}).encode()[:7])
        delivering.deliver()
        assert len(read(delivering.receipts)) == 2


def test_who_only_reads_writes_none(tmp_path) -> None:
    """Without a key nothing is signed, and nothing is made."""
    with contextlib.closing(Disk()) as disk:
        SegmentReceipts(tmp_path, "back", disk, None, days=1, wall_us=lambda: 0).add([])
    assert list(tmp_path.iterdir()) == []
