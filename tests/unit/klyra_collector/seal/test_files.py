"""The growing files of a shard: what a failed write may take back, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from klyra_collector.errors import IntakeHalted
from support import records
from support.sealing import Fault, FaultyDisk, SetClock, open_ledger, read_all


def test_a_failed_write_after_a_restart_keeps_what_was_acknowledged_before(tmp_path: Path) -> None:
    """A file that is opened by the very commit that fails is cut back to what it held, not emptied."""
    clock, disk = SetClock(), FaultyDisk()
    first = open_ledger(tmp_path, clock)
    first.commit([records.submission(records.record())])
    first.close()
    again = open_ledger(tmp_path, clock, disk)
    disk.fault = Fault("sync", "before")
    with pytest.raises(IntakeHalted) as halted:
        again.commit([records.submission(records.record())])
    assert halted.value.code == "disk_failed"
    again.resume()
    again.commit([records.submission(records.record())])
    again.close()
    assert [record.body is not None for record in read_all(tmp_path) if record.leaf.kind == 0] == [True, True]


def test_a_forgotten_file_is_made_anew(tmp_path: Path) -> None:
    """After a frame file was deleted, what is appended to its name stands in a new file."""
    ledger = open_ledger(tmp_path, SetClock())
    ledger.commit([records.submission(records.record())])
    (path,) = (tmp_path / "ledger/2026/bodies").glob("*/frames")
    path.unlink()
    ledger.forget_file(path)
    ledger.forget_file(path)
    ledger.commit([records.submission(records.record())])
    assert path.stat().st_size > 0
    ledger.close()
