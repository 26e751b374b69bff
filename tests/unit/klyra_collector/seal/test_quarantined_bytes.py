"""Quarantined bytes are found where the seal filed them, and where expiry moved them."""

from __future__ import annotations

import pytest

from klyra_audit.format import frame
from klyra_audit.format.frame import BlobFrame
from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.quarantined import QuarantinedBytes

ORIGIN = "l/c/2026"


@pytest.fixture
def data(tmp_path) -> DataDirectory:
    """Return an empty data directory."""
    return DataDirectory(tmp_path)


def keep(data: DataDirectory, folder: str, *indexes: int, shard: str = "2026") -> None:
    """Append frames to a day's file."""
    path = data.quarantine / folder / f"{shard}.frames"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for index in indexes:
            file.write(frame.encode_blob(BlobFrame(index, f"{shard} {index}".encode())))


def test_bytes_are_found_in_any_order_and_as_the_file_grows(data) -> None:
    """Asking forward reads on; asking back begins again."""
    keep(data, "100", 1, 5, 9)
    reading = QuarantinedBytes(data)
    assert [reading.find(ORIGIN, index, 100) for index in (5, 9, 1)] == [b"2026 5", b"2026 9", b"2026 1"]
    assert reading.find(ORIGIN, 12, 100) is None
    keep(data, "100", 12)
    assert reading.find(ORIGIN, 12, 100) == b"2026 12"


def test_shards_have_files_of_their_own(data) -> None:
    """The same index in another year is another record."""
    keep(data, "100", 1)
    keep(data, "100", 1, shard="2027")
    assert QuarantinedBytes(data).find("l/c/2027", 1, 100) == b"2027 1"


def test_moved_frames_stand_behind_greater_ones(data) -> None:
    """What is held or extended is appended to another file, out of order."""
    keep(data, "held", 7, 3)
    keep(data, "120", 9, 4)
    reading = QuarantinedBytes(data)
    assert [reading.find(ORIGIN, index, 100) for index in (7, 3, 9, 4)] == [b"2026 7", b"2026 3", b"2026 9", b"2026 4"]
    assert reading.find(ORIGIN, 4, 121) is None


def test_what_is_gone_or_damaged_is_none(data) -> None:
    """A list says that the bytes are missing; it does not fail."""
    assert QuarantinedBytes(data).find(ORIGIN, 1, 100) is None
    keep(data, "100", 1, 2)
    path = data.quarantine / "100" / "2026.frames"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert QuarantinedBytes(data).find(ORIGIN, 2, 100) is None
    path.write_bytes(b"X" + whole[1:])
    assert QuarantinedBytes(data).find(ORIGIN, 2, 100) is None
    path.write_bytes(whole.replace(b"2026 2", b"2026 3"))
    assert QuarantinedBytes(data).find(ORIGIN, 2, 100) is None
