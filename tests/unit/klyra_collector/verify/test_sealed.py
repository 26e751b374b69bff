"""Ledgers as the collector's own writer seals them: running, stopped, crashed and continued."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from dataclasses import replace

import pytest

from klyra_audit.format import frame, policy
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.errors import IntakeHalted
from klyra_collector.verify import Options, Verdict, verify_target
from support import records, sealing
from support.sealing import DiskFullError, Fault, FaultyDisk, SetClock
from support.tampering import at, change_frames, flip, found, indexes

V = Verdict
DAY_SECONDS = 86_400


def check(root, vkey: str | None = None, **options: object):
    """Verify a data directory, with a key pinned if one is given."""
    pinned = None if vkey is None else policy.parse(f"log {vkey}\nquorum none\n".encode())
    return verify_target(root, Options(**{"policy": pinned, "patience": 0.0} | options))


def batch(events: int = 6):
    """Return a submission of events of two organizations, one about a user, and something that is no event."""
    user = {"resource": {"type": "user", "id": "usr_1", "name": "Ada"}}
    made = [records.record(tenancy) for tenancy in (records.STARTUP, records.BUSINESS) for _ in range(events // 2)]
    return records.submission(*made, records.record(**user), records.bad(raw=b"no event " + os.urandom(8)))


@pytest.fixture
def sealed(tmp_path):
    """A ledger of three days, stopped cleanly; its records are 0 to 28."""
    clock = SetClock()
    with closing(sealing.open_ledger(tmp_path / "data", clock)) as ledger:
        for _ in range(3):
            ledger.commit([batch()])
            ledger.sign()
            clock.pass_seconds(DAY_SECONDS)
    return tmp_path / "data"


class TestIntact:
    """What the writer leaves behind at any moment is intact."""

    def test_a_stopped_ledger(self, sealed) -> None:
        """Every record is OK, pinned or not."""
        vkey = (sealed / "keys/collector.vkey").read_text().strip()
        for report in (check(sealed), check(sealed, vkey)):
            (shard,) = report.shards
            assert (report.exit_status, found(report), shard.counts) == (0, set(), {V.OK: shard.size})
            assert (shard.key, shard.unsigned_tail.records) == (vkey, 0)

    def test_a_ledger_that_was_stopped_and_continued(self, sealed) -> None:
        """A second START, and everything goes on."""
        clock = SetClock()
        clock.pass_seconds(4 * DAY_SECONDS)
        with closing(sealing.open_ledger(sealed, clock)) as ledger:
            ledger.commit([batch()])
        assert check(sealed).exit_status == 0

    def test_records_behind_the_head_are_checked_and_counted_apart(self, tmp_path) -> None:
        """They are acknowledged, and signed within a second; until then they are not called OK."""
        data = tmp_path / "data"
        with closing(sealing.open_ledger(data, SetClock())) as ledger:
            signed = ledger.signed_size
            ledger.commit([batch()])
            report = check(data)
            behind = ledger.size - signed
            assert (report.exit_status, report.shards[0].counts) == (0, {V.OK: signed})
            assert (report.shards[0].unsigned_tail.records, report.shards[0].unsigned_tail.checked) == (behind, behind)
            body = max((data / "ledger/2026/bodies").glob("*/frames"))
            last = indexes(body)[-1]
            flip(body, body.stat().st_size - 1)
            assert found(check(data)) == {at(V.ALTERED, last)}
            flip(body, body.stat().st_size - 1)

    def test_a_ledger_that_is_being_written(self, tmp_path) -> None:
        """A writer that commits and signs all the time is never taken for a broken ledger."""
        data, stop = tmp_path / "data", threading.Event()
        clock = SetClock()
        ledger = sealing.open_ledger(data, clock)

        def write() -> None:
            while not stop.is_set():
                ledger.commit([batch(20)])
                clock.pass_seconds(0.05)  # what is signed each second in life
                if ledger.size % 3 == 0:
                    ledger.sign()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            reports = [check(data, ledger.vkey, patience=5.0) for _ in range(12)]
        finally:
            stop.set()
            writer.join()
            ledger.close()
        assert [(report.exit_status, found(report)) for report in reports] == [(0, set())] * len(reports)
        assert check(data, ledger.vkey).shards[0].counts == {V.OK: ledger.size}


class TestCrashed:
    """What a failed write leaves behind is told from tampering, or called by its name."""

    @pytest.fixture
    def crashed(self, tmp_path):
        """Return a function that lets one step of a commit and its signing fail, and returns the data directory."""

        def crash(step: str, moment: str, place: int):
            disk = FaultyDisk()
            ledger = sealing.open_ledger(tmp_path / "data", SetClock(), disk)
            ledger.commit([batch()])
            ledger.sign()
            disk.fault = Fault(step, moment, place)
            try:
                ledger.commit([batch()])
                ledger.sign()
            except (IntakeHalted, DiskFullError):
                pass
            assert disk.fault.struck
            ledger.close()
            (tmp_path / "data/run.json").write_text("{}")  # as after a crash: nobody took it away
            return tmp_path / "data"

        return crash

    @pytest.mark.parametrize(
        ("step", "moment", "place"),
        [
            *(("append", moment, place) for place in range(5) for moment in ("before", "torn", "after")),
            *(("sync", moment, place) for place in (0, 1) for moment in ("before", "after")),
            *(("replace", moment, place) for place in (0, 1, 2) for moment in ("before", "after")),
        ],
    )
    def test_no_moment_of_a_crash_looks_like_tampering(self, crashed, step, moment, place) -> None:
        """Before and after the next start."""
        data = crashed(step, moment, place)
        report = check(data)
        assert (report.exit_status, found(report)) == (0, set())
        sealing.open_ledger(data, SetClock()).close()
        assert check(data).shards[0].counts == {V.OK: check(data).shards[0].size}

    def test_what_a_crash_left_is_extra_once_the_collector_was_stopped(self, crashed) -> None:
        """A clean stop leaves nothing of the kind; frames behind the end are then nobody's."""
        data = crashed("append", "before", 3)  # the content is there, the leaves are not
        size = (data / "ledger/2026/leaves").stat().st_size // LEAF_SIZE
        (data / "run.json").unlink()
        report = check(data)
        assert report.exit_status == 1
        assert {finding.verdict for finding in report.shards[0].findings} == {V.EXTRA}
        assert min(finding.first for finding in report.shards[0].findings) >= size


class TestTamperedWith:
    """The same files, changed."""

    @pytest.mark.parametrize("pattern", ["bodies/*/frames", "control/frames", "leaves", "hashes/0", "checkpoint"])
    def test_any_byte(self, sealed, pattern) -> None:
        """Exit 1, and the file is named."""
        for path in sorted((sealed / "ledger/2026").glob(pattern)):
            for offset in range(0, path.stat().st_size, 97):
                flip(path, offset)
                report = check(sealed)
                assert report.exit_status == 1, (path, offset)
                assert str(path.relative_to(sealed)) in {finding.file for finding in report.shards[0].findings}
                flip(path, offset)
        assert check(sealed).exit_status == 0

    def test_any_byte_of_quarantined_input(self, sealed) -> None:
        """The record is named too."""
        (path, *_) = sorted((sealed / "quarantine").glob("*/*"))
        (index,) = indexes(path)
        for offset in range(path.stat().st_size):
            flip(path, offset)
            report = check(sealed)
            assert report.exit_status == 1
            assert {finding.first for finding in report.shards[0].findings} == {index}, offset
            flip(path, offset)

    def test_a_body_left_out_of_a_ledger_that_runs(self, sealed) -> None:
        """A running collector excuses nothing that is committed."""
        (sealed / "run.json").write_text("{}")
        path = min((sealed / "ledger/2026/bodies").glob("*/frames"))
        index = indexes(path)[1]
        change_frames(path, lambda frames: frames.pop(1))
        report = check(sealed)
        assert (report.exit_status, found(report)) == (1, {at(V.MISSING, index)})

    def test_evidence_put_with_a_body_is_not_passed_over(self, sealed) -> None:
        """No leaf commits to it, so it must stand for itself."""
        path = min((sealed / "ledger/2026/bodies").glob("*/frames"))
        _, body = frame.read_body(path.read_bytes(), 0)
        changed = frame.encode_body(replace(body, attachment=b"a batch that nobody signed"))
        change_frames(path, lambda frames: frames.__setitem__(0, changed))
        report = check(sealed)
        assert (report.exit_status, found(report)) == (1, {at(V.EMITTER_SIG, body.index)})
