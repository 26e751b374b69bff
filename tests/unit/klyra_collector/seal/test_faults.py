"""Every durable write of the seal fails once, before it happens and after, or ends the process: nothing is lost.

The table is made by running a whole life of a ledger on a sound disk and noting each kind of write it makes: a commit
with every kind of body, HEADS, checkpoints, one kept for its day, the turn of the year, a clean stop.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format.frame import read_body_frames
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import IntakeHalted
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.seal.recovery import recover
from klyra_collector.stages import EmitterPosition, Status
from klyra_collector.verify import Options, verify_target
from support import records
from support.records import BUSINESS, submission
from support.sealing import (
    DiskBrokenError,
    DiskFullError,
    Fault,
    FaultyDisk,
    Killed,
    SetClock,
    crash,
    open_ledger,
)

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.stages import Record, Sealed

NEW_YEAR_US = 1_798_761_600 * 1_000_000  # 2027-01-01
BOOT = "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10"

# Every kind of durable write that a ledger makes. A number in a path stands for any: days of expiry differ.
WRITES = [
    ("replace", "keys/#.key"),
    ("replace", "keys/collector.vkey"),
    ("replace", "keys/commit.key"),
    ("replace", "#/state/own"),
    ("overwrite", "#/state/own"),
    ("append", "#/bodies/#/frames"),
    ("append", "#/control/frames"),
    ("append", "quarantine/#/#.frames"),
    ("sync", "#/bodies/#/frames"),
    ("sync", "#/control/frames"),
    ("sync_new_file", "#/bodies/#/frames"),
    ("sync_new_file", "#/control/frames"),
    ("sync_new_file", "#/leaves"),
    ("sync_new_file", "quarantine/#/#.frames"),
    ("append", "#/leaves"),
    ("sync", "#/leaves"),
    ("append", "#/hashes/#"),
    ("sync_new_file", "#/hashes/#"),
    ("replace", "#/state/last-signed"),
    ("replace", "#/state/offsets"),
    ("replace", "#/checkpoint"),
    ("replace", "#/checkpoints/#-#-#"),
    ("replace", "#/checkpoints/close"),
    ("replace", "#/state/sequences"),
]
IDENTITY = {"keys/org-salt", "keys/tag.key", "keys/collector.key", "keys/collector.mldsa", "ledger/identity.json"}


class WritesOnce(Fault):
    """Strikes at the n-th write of one kind."""

    def strikes(self, step: str, path: str = "") -> bool:
        """See `Fault`."""
        return super().strikes(step, kind_of(path))


def kind_of(path: str) -> str:
    """Return a path with every number as `#`."""
    return re.sub(r"\d+", "#", path)


@dataclass
class Life:
    """A ledger from its first start over the turn of a year, with clients that send again what was not acknowledged.

    Attributes:
        acknowledged: where the ledger said that each event stands, by its id.
        is_open: a ledger is open, which a kill leaves as it is.
    """

    root: Path
    disk: FaultyDisk
    clock: SetClock = field(default_factory=lambda: SetClock(NEW_YEAR_US - 600_000_000))
    acknowledged: dict[str, Sealed] = field(default_factory=dict)
    is_open: bool = False

    def __post_init__(self) -> None:
        self.clock.is_synchronised = True
        self.events = [
            records.record(BUSINESS),
            *(records.record(position=EmitterPosition("moderator", BOOT, number)) for number in range(3)),
            records.record(),
            records.bad(),
        ]

    def run(self) -> None:
        """Live; whoever kills the process leaves it as it is then."""
        self.ledger = open_ledger(self.root, self.clock, self.disk)
        self.is_open = True
        for seconds, count in ((0, 3), (120, 4), (3600, 6)):  # twice in the last minutes of a year, then in the next
            self.clock.pass_seconds(seconds)
            for event in self.events[:count]:
                self.send(event)
            self.patiently(self.ledger.seal_heads)
            self.patiently(self.ledger.sign)
        self.is_open = False  # whatever happens in there, it lets go of its files
        self.ledger.close()

    def send(self, event: Record) -> None:
        """Have an event acknowledged, as a client does: again and again."""
        ((outcome,),) = self.patiently(lambda: self.ledger.commit([submission(event)]))
        first = self.acknowledged.setdefault(event.record_id, outcome.sealed)
        assert outcome.sealed == first
        assert outcome.status in (Status.SEALED, Status.QUARANTINED) or event.record_id in self.acknowledged

    def patiently(self, work):
        """Do something of the ledger's, letting it recover when its disk has failed."""
        for _ in range(5):
            try:
                return work()
            except IntakeHalted as error:
                assert (error.code, bool(error.remedy)) == ("disk_failed", True)
                self.ledger.resume()
        pytest.fail("the ledger never recovered")

    def check(self) -> None:
        """Assert that everything acknowledged stands where it was said to, once, and that all of it verifies."""
        with contextlib.closing(LedgerReader(DataDirectory(self.root).ledger)) as reader:
            committed = {origin: reader.read(origin, 0, reader.committed(origin)) for origin in reader.origins()}
        for sealed in self.acknowledged.values():
            assert committed[sealed.log][sealed.index].leaf_bytes == sealed.leaf
        contents = [item for shard in committed.values() for item in shard if Kind(item.leaf.kind).has_body]
        assert len(contents) == len(self.acknowledged)
        report = verify_target(self.root, Options())
        assert report.exit_status == 0, report.as_json()

    def continue_after(self) -> None:
        """Start again on a sound disk, send everything again, stop cleanly."""
        self.disk = FaultyDisk()
        self.ledger = open_ledger(self.root, self.clock, self.disk)
        for event in self.events:
            self.send(event)
        self.ledger.seal_heads()
        self.ledger.close()


def faults_of(moments) -> list:
    """Return the table: each kind of write with each moment."""
    return [(*write, moment) for write in WRITES for moment in moments]


def test_the_table_has_every_kind_of_write(tmp_path) -> None:
    """A whole life makes exactly the writes of the table, so that a new kind of write cannot be forgotten."""
    life = Life(tmp_path, FaultyDisk())
    life.run()
    life.check()
    made = {(step, kind_of(path)) for step, path in life.disk.steps}
    known = set()
    for step, path in made:
        matches = [write for write in WRITES if write[0] == step and path.endswith(write[1])]
        assert matches or any(path.endswith(name) for name in IDENTITY), (step, path)
        known.update(matches)
    assert known == set(WRITES)


@pytest.mark.parametrize(("step", "path", "moment"), faults_of(["before", "after"]))
@pytest.mark.parametrize("error", [DiskFullError, DiskBrokenError], ids=["ENOSPC", "EIO"])
def test_a_write_that_fails_loses_nothing(tmp_path, step, path, moment, error) -> None:
    """Intake halts, recovers by itself, goes on; a restart finds nothing to mend, and everything verifies."""
    life = Life(tmp_path, FaultyDisk())
    life.disk.fault = fault = WritesOnce(step, moment, path=path, error=error)
    with contextlib.suppress(error, IntakeHalted):  # a disk that fails while the ledger opens keeps it from starting
        life.run()
    assert fault.struck
    life.continue_after()
    life.check()


@pytest.mark.parametrize(("step", "path", "moment"), faults_of(["after"]))
@pytest.mark.parametrize("at", [0, 1])
def test_a_crash_after_a_write_loses_nothing(tmp_path, step, path, moment, at) -> None:
    """The process ends right after a write; the next start goes on from there, and everything verifies."""
    life = Life(tmp_path, FaultyDisk())
    life.disk.fault = WritesOnce(step, moment, at, path, Killed)
    with contextlib.suppress(Killed):
        life.run()
    if life.is_open:
        crash(life.ledger)
    life.continue_after()
    life.check()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("moment", "error"), [("before", DiskFullError), ("after", DiskBrokenError), ("after", Killed)]
)
def test_every_single_write_of_a_life(tmp_path_factory, moment, error) -> None:
    """Not the first of each kind only: each of the hundreds of writes fails once, or is the last of its process."""
    sound = Life(tmp_path_factory.mktemp("sound"), FaultyDisk())
    sound.run()
    places: dict[str, int] = {}
    for step, _ in sound.disk.steps:
        at = places[step] = places.get(step, -1) + 1
        life = Life(tmp_path_factory.mktemp("life"), FaultyDisk())
        life.disk.fault = Fault(step, moment, at, error=error)
        with contextlib.suppress(error, IntakeHalted):
            life.run()
        if error is Killed and life.is_open:
            crash(life.ledger)
        life.continue_after()
        life.check()


class TestTorn:
    """Power loss leaves any number of bytes of what was not yet synced."""

    @pytest.fixture
    def life(self, tmp_path):
        """A ledger that was killed with one record under a checkpoint and two that are not."""
        life = Life(tmp_path, FaultyDisk())
        life.ledger = open_ledger(tmp_path, life.clock, life.disk)
        life.send(life.events[0])
        life.ledger.sign()
        life.send(life.events[1])
        life.last = dict(life.acknowledged)
        life.send(life.events[4])
        crash(life.ledger)
        return life

    def resume(self, life, cut: int) -> None:
        """Start on what is left, check what was durable, send the rest again."""
        life.ledger = open_ledger(life.root, life.clock)
        recovered = life.ledger.recovered.cut
        assert (0 if recovered is None else recovered.count) == cut
        life.acknowledged = dict(life.last)  # what power loss took was never acknowledged: its sync had not returned
        life.send(life.events[4])
        life.ledger.close()
        life.check()

    @pytest.mark.parametrize("kept", [*range(0, LEAF_SIZE, 16), 1, LEAF_SIZE - 1])
    def test_the_last_leaf(self, life, kept) -> None:
        """However many bytes of the last leaf are there, it goes, and what was synced before it stays."""
        leaves = ShardDirectory(DataDirectory(life.root).ledger / "2026").leaves
        leaves.write_bytes(leaves.read_bytes()[: kept - LEAF_SIZE])
        self.resume(life, 1 if kept else 0)

    def test_every_byte_of_the_last_leaf_and_of_the_last_frame(self, life) -> None:
        """At every offset at which the last leaf or the last body can be torn, recovery finds the same end."""
        data = DataDirectory(life.root)
        shard = ShardDirectory(data.ledger / "2026")
        last = life.acknowledged[life.events[4].record_id]
        bodies = shard.bodies / str(Leaf.unpack(last.leaf).expire_day) / "frames"
        whole_leaves, whole_bodies = shard.leaves.read_bytes(), bodies.read_bytes()
        begins = next(start for start, _, body in read_body_frames(whole_bodies) if body.index == last.index)
        keys = life.ledger.signer.verifying_keys
        torn = [(length, len(whole_bodies)) for length in range(len(whole_leaves) - LEAF_SIZE, len(whole_leaves))]
        torn += [(len(whole_leaves), length) for length in range(begins, len(whole_bodies))]
        with contextlib.closing(Disk()) as disk:
            for leaves_length, bodies_length in torn:
                shard.leaves.write_bytes(whole_leaves[:leaves_length])
                bodies.write_bytes(whole_bodies[:bodies_length])
                recovered = recover(data, shard, keys, disk, now="torn")
                recovered.own.close()
                assert recovered.state.size == last.index
                assert (shard.leaves.read_bytes(), bodies.read_bytes()) == (
                    whole_leaves[:-LEAF_SIZE],
                    whole_bodies[:begins],
                )
