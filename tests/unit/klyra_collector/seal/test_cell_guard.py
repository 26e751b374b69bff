"""A ledger with a cell outside its disk: restored images, copies and second writers are told at start or at signing."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import CellUnreachable, CellUnusable, IntakeHalted, LedgerRolledBack
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger
from klyra_collector.stages import Status
from support import documents, records
from support.records import submission
from support.sealing import OPTIONS, Fault, FaultyDisk, Killed, SetClock, crash, read_all


@pytest.fixture(params=["file", "elasticsearch"])
def cell_url(request, tmp_path):
    """Where a cell is, of each kind."""
    if request.param == "file":
        (tmp_path / "mount").mkdir()
        yield f"file:{tmp_path}/mount/cell"
        return
    with documents.serving() as server:
        yield f"elasticsearch+{server.url}/heads/collector-1"


@pytest.fixture
def file_cell(tmp_path):
    """Where a cell in a file is."""
    (tmp_path / "mount").mkdir(exist_ok=True)
    return f"file:{tmp_path}/mount/cell"


def opened(root, url, disk=None, clock=None, **options) -> Ledger:
    """Open a ledger that has a cell."""
    given = replace(OPTIONS, cell=url, **options)
    return Ledger.open(DataDirectory(root), disk or Disk(), clock or SetClock(), given)


def work(ledger, count=3) -> None:
    """Seal some records and sign them."""
    for _ in range(count):
        assert ledger.commit([submission(records.record())])[0][0].status is Status.SEALED
    ledger.sign()


def shard_of(root, name="2026") -> ShardDirectory:
    """Return a shard."""
    return ShardDirectory(DataDirectory(root).ledger / name)


def refuse(root, url, code) -> LedgerRolledBack:
    """Assert that a start is refused, with the commands that help, and return the error."""
    with pytest.raises(LedgerRolledBack) as caught:
        opened(root, url)
    assert caught.value.code == code
    assert "klyra-audit ledger explain" in caught.value.remedy
    assert "klyra-audit ledger continue" in caught.value.remedy
    return caught.value


class TestRestored:
    """Yesterday's disk image is whole in itself; only the cell knows better."""

    def test_a_restored_image_does_not_start(self, tmp_path, cell_url) -> None:
        """Copy the data directory, go on, restore the copy: refused, whole as it is, and nothing is written."""
        data, copy = tmp_path / "data", tmp_path / "copy"
        ledger = opened(data, cell_url)
        work(ledger)
        ledger.close()
        shutil.copytree(data, copy)
        ledger = opened(data, cell_url)
        work(ledger)
        ledger.close()
        shutil.rmtree(data)
        shutil.copytree(copy, data)
        before = len(read_all(data))
        error = refuse(data, cell_url, "restored_image")
        assert "restored disk image" in str(error)
        assert len(read_all(data)) == before

    def test_an_image_from_before_a_year_turned(self, tmp_path, cell_url) -> None:
        """The cell names a shard that the disk does not have."""
        data, copy, clock = tmp_path / "data", tmp_path / "copy", SetClock()
        ledger = opened(data, cell_url, clock=clock)
        work(ledger)
        shutil.copytree(data, copy)
        clock.pass_seconds(220 * 86_400)
        work(ledger)
        ledger.close()
        refuse(copy, cell_url, "restored_image")
        opened(data, cell_url, clock=clock).close()

    def test_a_copy_that_went_on_by_itself(self, tmp_path, cell_url) -> None:
        """Longer than what the cell knows, but not from it: the copy ran without the cell."""
        data, copy = tmp_path / "data", tmp_path / "copy"
        ledger = opened(data, cell_url)
        ledger.close()
        shutil.copytree(data, copy)
        ledger = opened(data, cell_url)
        work(ledger, 2)
        ledger.close()
        astray = opened(copy, None)
        work(astray, 400)
        astray.close()
        error = refuse(copy, cell_url, "restored_image")
        assert "went on by itself" in str(error)

    def test_a_cell_that_is_behind(self, tmp_path, cell_url) -> None:
        """Its head is a prefix, also one within a tile long ago: the ledger ran without it, and goes on."""
        data = tmp_path / "data"
        for count in (2, 300, 300):
            ledger = opened(data, cell_url)
            work(ledger, 2)
            ledger.close()
            ledger = opened(data, None)
            work(ledger, count)
            ledger.close()
        opened(data, cell_url).close()

    def test_a_cell_that_was_emptied(self, tmp_path, file_cell) -> None:
        """It held a head before: perhaps its place is not mounted."""
        opened(tmp_path / "data", file_cell).close()
        (tmp_path / "mount" / "cell").unlink()
        error = refuse(tmp_path / "data", file_cell, "cell_emptied")
        assert "mounted" in error.remedy

    def test_a_new_cell(self, tmp_path, cell_url) -> None:
        """A ledger that never had one takes it up, and one that had another does too."""
        opened(tmp_path / "data", None).close()
        opened(tmp_path / "data", cell_url).close()
        (tmp_path / "elsewhere").mkdir()
        opened(tmp_path / "data", f"file:{tmp_path}/elsewhere/cell").close()
        assert (tmp_path / "elsewhere" / "cell").read_bytes() == shard_of(tmp_path / "data").checkpoint.read_bytes()


class TestStart:
    """What else a start finds in the cell."""

    def test_an_unreachable_cell(self, tmp_path, file_cell) -> None:
        """The ledger cannot be checked, so it does not start; nothing was changed."""
        opened(tmp_path / "data", file_cell).close()
        (tmp_path / "mount").rename(tmp_path / "unmounted")
        with pytest.raises(CellUnusable) as caught:
            opened(tmp_path / "data", file_cell)
        assert (caught.value.code, bool(caught.value.remedy)) == ("cell_unreachable", True)
        (tmp_path / "unmounted").rename(tmp_path / "mount")
        opened(tmp_path / "data", file_cell).close()

    def test_another_collectors_cell(self, tmp_path, cell_url) -> None:
        """Two collectors with one cell: the second is refused."""
        opened(tmp_path / "one", cell_url, collector_id="one").close()
        with pytest.raises(CellUnusable) as caught:
            opened(tmp_path / "two", cell_url, collector_id="two")
        assert (caught.value.code, "of its own" in caught.value.remedy) == ("cell_foreign", True)
        opened(tmp_path / "one", cell_url).close()

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff", b"a\nb\nc\n\n"])
    def test_a_cell_with_something_else_in_it(self, tmp_path, file_cell, content) -> None:
        """No checkpoint: someone else writes there."""
        opened(tmp_path / "data", file_cell).close()
        (tmp_path / "mount" / "cell").write_bytes(content)
        with pytest.raises(CellUnusable) as caught:
            opened(tmp_path / "data", file_cell)
        assert (caught.value.code, bool(caught.value.remedy)) == ("cell_malformed", True)


class TestSigning:
    """`last-signed`, then the cell, then the checkpoint."""

    def test_every_checkpoint_is_in_the_cell(self, tmp_path, file_cell) -> None:
        """The same bytes."""
        ledger = opened(tmp_path / "data", file_cell)
        for _ in range(3):
            work(ledger)
            assert (tmp_path / "mount" / "cell").read_bytes() == shard_of(tmp_path / "data").checkpoint.read_bytes()
        ledger.close()

    def test_an_unreachable_cell_stops_no_intake(self, tmp_path, file_cell) -> None:
        """Records are sealed, nothing is published meanwhile, and it is made up for."""
        ledger = opened(tmp_path / "data", file_cell)
        shard = shard_of(tmp_path / "data")
        public = shard.checkpoint.read_bytes()
        (tmp_path / "mount").rename(tmp_path / "unmounted")
        for _ in range(2):
            with pytest.raises(CellUnreachable):
                work(ledger)
        assert (shard.checkpoint.read_bytes(), ledger.halted) == (public, None)
        (tmp_path / "unmounted").rename(tmp_path / "mount")
        ledger.sign()
        assert (tmp_path / "mount" / "cell").read_bytes() == shard.checkpoint.read_bytes() != public
        ledger.close()

    def test_a_write_whose_answer_was_lost(self, tmp_path) -> None:
        """It was ours: no conflict, and the next head replaces it."""
        with documents.serving() as server:
            ledger = opened(tmp_path / "data", f"elasticsearch+{server.url}/heads/one")
            server.lose_answers = True
            for _ in range(2):
                with pytest.raises(CellUnreachable):
                    work(ledger)
            server.lose_answers = False
            work(ledger)
            assert ledger.signed_size == ledger.size
            ledger.close()

    def test_two_collectors_on_copies_of_one_ledger(self, tmp_path, cell_url) -> None:
        """The second to sign halts for good, publishes nothing, and does not start again either."""
        opened(tmp_path / "one", cell_url).close()
        shutil.copytree(tmp_path / "one", tmp_path / "two")
        first, second = opened(tmp_path / "one", cell_url), None
        # Both read the cell before either moves it: the lock file is in the data directory and was copied with it.
        with pytest.raises(LedgerRolledBack):
            opened(tmp_path / "two", cell_url)
        second_cell = shutil.copytree(tmp_path / "one", tmp_path / "three")
        second = opened(second_cell, cell_url)
        public = shard_of(second_cell).checkpoint.read_bytes()
        assert first.commit([submission(records.record())])
        with pytest.raises(IntakeHalted) as caught:
            first.sign()
        assert (caught.value.code, "one collector" in caught.value.remedy) == ("cell_conflict", True)
        for again in (first.resume, first.sign, lambda: first.commit([submission(records.record())])):
            with pytest.raises(IntakeHalted) as caught:
                again()
            assert caught.value.code == "cell_conflict"
        crash(first)
        refuse(tmp_path / "one", cell_url, "restored_image")
        work(second)
        assert shard_of(second_cell).checkpoint.read_bytes() != public
        second.close()

    @pytest.mark.parametrize(
        ("path", "moment"),
        [("last-signed", "before"), ("last-signed", "after"), ("/checkpoint", "before"), ("/checkpoint", "after")],
    )
    def test_a_crash_at_every_step(self, tmp_path, cell_url, path, moment) -> None:
        """The cell is a head behind the disk, or even with it; the next start goes on in either case."""
        disk = FaultyDisk()
        ledger = opened(tmp_path / "data", cell_url, disk)
        disk.fault = Fault("replace", moment, path=path, error=Killed)
        with pytest.raises(Killed):
            work(ledger)
        crash(ledger)
        again = opened(tmp_path / "data", cell_url)
        work(again)
        again.close()
        opened(tmp_path / "data", cell_url).close()

    def test_a_rotation_with_a_cell(self, tmp_path, cell_url) -> None:
        """Two heads of one size, signed by one key and by both, both pass."""
        ledger = opened(tmp_path / "data", cell_url)
        ledger.rotate_key(ledger.vkey)
        work(ledger)
        ledger.close()
        opened(tmp_path / "data", cell_url).close()
