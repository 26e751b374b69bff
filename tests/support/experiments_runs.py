"""Experiments 20 and 62 to 64: real collectors that crash, are set back, or meet another one."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

from klyra_audit.format import policy
from klyra_collector.data_directory import DataDirectory, ShardDirectory
from klyra_collector.errors import IntakeHalted, LedgerLocked, LedgerRolledBack
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger
from klyra_collector.stages import Status
from klyra_collector.verify import Options, Report, Verdict, verify_target
from support import records
from support.experiment import Table
from support.records import submission
from support.sealing import OPTIONS, Fault, FaultyDisk, SetClock, crash
from support.workshop import Subject, Workshop

V = Verdict
RUNS = Table()
row = RUNS.row


class Run(Subject):
    """A real ledger, with a cell outside its disk that remembers the newest head; started again when it is judged."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        super().__init__(workshop, folder)
        self.root = folder / "data"
        self.clock = SetClock()
        self.disk = FaultyDisk()
        self.acknowledged: list[tuple[int, bytes]] = []
        self.ledger, self.is_open = self.open(self.disk), True
        self.vkey = self.ledger.vkey
        self.seal()

    def open(self, disk: Disk | None = None) -> Ledger:
        """Open the ledger as a collector does."""
        options = replace(OPTIONS, cell=f"file:{self.folder / 'cell'}")
        return Ledger.open(DataDirectory(self.root), disk or Disk(), self.clock, options)

    def seal(self, count: int = 1) -> None:
        """Seal and sign some events, a second apart."""
        for _ in range(count):
            for outcomes in self.ledger.commit([submission(records.record(), records.bad())]):
                self.acknowledged += [(outcome.sealed.index, outcome.sealed.leaf) for outcome in outcomes]
            self.ledger.sign()
            self.clock.pass_seconds(1)

    def die(self, step: str, moment: str, path: str = "") -> None:
        """Go on until the disk fails at a step, and be killed there."""
        self.disk.fault = Fault(step, moment, path=path)
        with contextlib.suppress(IntakeHalted):
            self.seal(5)
        assert self.disk.fault.struck
        crash(self.ledger)
        self.ledger = self.open()
        self.seal()

    @property
    def shard(self) -> ShardDirectory:
        """The only shard."""
        return ShardDirectory(DataDirectory(self.root).ledger / "2026")

    def close(self) -> None:
        """Stop cleanly, unless it has stopped."""
        if self.is_open:
            self.ledger.close()
        self.is_open = False

    def verify(self) -> Report:
        """Look at the files as an auditor does."""
        self.close()
        pinned = policy.parse(f"log {self.vkey}\nquorum none\n".encode())
        return verify_target(self.root, Options(policy=pinned, patience=0.0, now_us=self.clock.wall_us()))

    def verdicts(self) -> set[Verdict]:
        """See `Subject`; everything acknowledged must be there too."""
        found = super().verdicts()
        leaves = self.shard.leaves.read_bytes()
        missing = [index for index, leaf in self.acknowledged if leaves[index * 112 : (index + 1) * 112] != leaf]
        return found | ({V.MISSING} if missing else set())


class Refusal(Run):
    """A real ledger that a start must refuse."""

    goes_on = False  # the collector that has it open

    def verdicts(self) -> set[Verdict]:
        """Say why it does not start."""
        if not self.goes_on:
            self.close()
        try:
            self.open().close()
        except LedgerRolledBack:
            return {V.ROLLBACK}
        except LedgerLocked:
            self.close()
            return {V.FORK}  # what a second writer would have led to
        return set()


for _step, _moment, _path, _name in (
    ("sync", "after", "", "after a body is durable"),
    ("append", "torn", "leaves", "in the middle of a leaf"),
    ("append", "after", "leaves", "after a leaf is written"),
    ("sync", "after", "leaves", "after a leaf is durable"),
    ("append", "after", "hashes/0", "after hashes are written"),
    ("replace", "after", "last-signed", "after a head is signed, before it is shown"),
    ("replace", "before", "checkpoint", "before a head is shown"),
):

    @row(62, f"killed {_name}", Run)
    def _(run: Run, step: str = _step, moment: str = _moment, path: str = _path) -> None:
        run.die(step, moment, path)


@row(62, "50 bytes of a leaf at the end", Run)
def _(run: Run) -> None:
    crash(run.ledger)
    with run.shard.leaves.open("ab") as file:
        file.write(bytes(50))
    run.ledger = run.open()
    assert run.ledger.recovered.cut is not None
    run.seal()


@row(63, "yesterday's disk started", Refusal, V.ROLLBACK)
def _(run: Refusal) -> None:
    run.close()
    shutil.copytree(run.root, run.folder / "yesterday")
    run.ledger, run.is_open = run.open(), True
    run.seal(3)
    run.close()
    shutil.rmtree(run.root)
    (run.folder / "yesterday").rename(run.root)


@row(64, "two collectors of one shard", Refusal, V.FORK)
def _(run: Refusal) -> None:
    run.goes_on = True


@row(20, "the same id with other content, at intake", Run)
def _(run: Run) -> None:
    first = records.record()
    other = records.record(id=first.record_id, status="failure")
    ((sealed,), (refused,)) = run.ledger.commit([submission(first), submission(other)])
    assert (sealed.status, refused.status) == (Status.SEALED, Status.QUARANTINED)
    run.ledger.sign()
