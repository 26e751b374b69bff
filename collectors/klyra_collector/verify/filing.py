"""The passes over a shard's frame files: what stands in them, where, and whether it is what the leaves commit to."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klyra_audit.format.control import (
    DroppedShard,
    Erasure,
    Expiry,
    Extend,
    Heads,
    Hold,
    PolicyRecord,
    Release,
    Start,
)
from klyra_audit.format.leaf import Kind, Leaf
from klyra_collector.verify.contents import BodyChecker, Quarantined, check_control
from klyra_collector.verify.emitters import EmitterKeys, EvidenceChecker
from klyra_collector.verify.files import NoFile, RegularFile, open_or_empty
from klyra_collector.verify.layout import HELD
from klyra_collector.verify.leaves import KINDS_WITH_BODY, MICROSECONDS_PER_DAY, HeadsRecords, HeadsSaid
from klyra_collector.verify.proving import BodyProver
from klyra_collector.verify.scan import LeafReader, known_leaf
from klyra_collector.verify.verdicts import Problem, Verdict
from klyra_collector.verify.walk import BlobWalker, BodyWalker, Damage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.format.control import ControlDocument
    from klyra_audit.format.frame import BlobFrame, BodyFrame
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.alignment import Segment
    from klyra_collector.verify.facts import ControlFacts

BYTES_PER_TASK: Final = 8 * 1024 * 1024


# Documents by which something may be gone, or kept: only what a signed head covers excuses anything, since whoever can
# write the files can also append records behind it.
_EXCUSES: Final = (DroppedShard, Erasure, Expiry, Extend, Hold, Release)


@dataclass(frozen=True, slots=True)
class Complaint:
    """A problem with one frame."""

    index: int
    offset: int
    problem: Problem
    organization_id: str | None = None


@dataclass(frozen=True, slots=True)
class Leaves:
    """What a pass needs to look up leaves: the file, where to trust it, and how many records are looked at."""

    path: Path
    segments: tuple[Segment, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class Moved:
    """A frame in another file than that of its own day.

    Attributes:
        index, offset: of the frame.
        behind: so many frames of the report that are filed where they belong stand before it.
        day: its own, before which nobody moved it.
        row: frames of one row ascend by (day, index); None for a frame that may stand anywhere.
    """

    index: int
    offset: int
    behind: int
    day: int
    row: tuple[bytes, int] | None


@dataclass(frozen=True, slots=True)
class Told:
    """What control records say that decides where a body belongs, and who vouched for it.

    Attributes:
        org_salt: None checks everything but the org_ref.
        shard: the shard's number among all.
        keys: of the emitters.
        extended: (org_ref, first org_seq, last, retention days) of every EXTEND about the shard.
        swept_day: the newest cutoff_day of an EXPIRY about it: what was due by then and kept may stand under `held`.
        held: organizations of which there ever was a hold.
    """

    org_salt: bytes | None
    shard: int = 0
    keys: EmitterKeys = field(default_factory=EmitterKeys)
    extended: tuple[tuple[bytes, int, int, int], ...] = ()
    swept_day: int = -1
    held: frozenset[bytes] = frozenset()

    def is_moved_to(self, day: int, leaf: Leaf) -> bool:
        """Say whether a body may have been moved to the file of another day, or to `HELD`."""
        if day == HELD:
            return leaf.expire_day <= self.swept_day
        kept = day - leaf.ingest_us // MICROSECONDS_PER_DAY - 1
        return any(
            org_ref == leaf.org_ref and first <= leaf.org_seq <= last and days == kept
            for org_ref, first, last, days in self.extended
        )

    def moved(self, index: int, offset: int, leaf: Leaf, behind: int) -> Moved:
        """Return where a moved frame stands, and in which row of frames it has its place.

        A day's file is moved whole, in its order, and days come one after another; only what was held and extended by
        turns, or extended more than once, may have come by another way.
        """
        lengths = {days for org_ref, first, last, days in self.extended if org_ref == leaf.org_ref}
        row: tuple[bytes, int] | None = None
        if not any(org == leaf.org_ref and first <= leaf.org_seq <= last for org, first, last, _ in self.extended):
            row = b"", 0
        elif len(lengths) == 1 and leaf.org_ref not in self.held:
            row = leaf.org_ref, leaf.expire_day
        return Moved(index, offset, behind, leaf.expire_day, row)


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyTask:
    """What begins in [start, stop) of one day's file of bodies.

    Attributes:
        path: the file, `size` bytes long when it was listed.
        day: its expiry day.
        synchronised: a frame begins at `start`; otherwise the first whole one behind it is looked for.
        leaves: to check against.
        told: to judge by.
    """

    path: Path
    size: int
    day: int
    start: int
    stop: int
    synchronised: bool
    leaves: Leaves
    told: Told


@dataclass(slots=True)
class FrameReport:
    """What stands in a file, or in a part of it.

    Attributes:
        begin, end: the bytes that were looked at; `begin` is None when no frame begins in the part.
        indexes, offsets: of the frames that are filed where they belong, in the order of the file.
        complaints: about those frames, and about frames that belong elsewhere.
        damages: (how many of `indexes` stand before it, what).
        beyond: (index, offset) of frames of records that are not looked at.
        quarantined: what the cores of QUARANTINE records say of the raw bytes, by index.
        moved: frames that were moved here from the file of their own day.
        erased: sections that are zeros, by index.
    """

    begin: int | None = 0
    end: int = 0
    indexes: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    complaints: list[Complaint] = field(default_factory=list)
    damages: list[tuple[int, Damage]] = field(default_factory=list)
    beyond: list[tuple[int, int]] = field(default_factory=list)
    quarantined: dict[int, Quarantined] = field(default_factory=dict)
    moved: list[Moved] = field(default_factory=list)
    erased: dict[int, tuple[SectionName, ...]] = field(default_factory=dict)

    def add(self, index: int, offset: int) -> None:
        """Note a frame that is filed where it belongs."""
        self.indexes.append(index)
        self.offsets.append(offset)

    def complain(self, index: int, offset: int, problem: Problem, organization_id: str | None = None) -> None:
        """Note a problem with a frame."""
        self.complaints.append(Complaint(index, offset, problem, organization_id))

    def stray(self, index: int, offset: int, reason: str) -> None:
        """Note a frame that does not belong here at all."""
        self.complain(index, offset, Problem(Verdict.EXTRA, reason))


def body_tasks(path: Path, file: RegularFile | NoFile, day: int, leaves: Leaves, told: Told) -> Iterator[BodyTask]:
    """Yield the tasks that together look at one day's file; a hole, however large, is part of one task."""
    start = 0
    while start < file.size:
        stop = file.data_from(start + BYTES_PER_TASK)
        yield BodyTask(
            path=path,
            size=file.size,
            day=day,
            start=start,
            stop=stop,
            synchronised=start == 0,
            leaves=leaves,
            told=told,
        )
        start = stop


def scan_bodies(task: BodyTask) -> FrameReport:
    """Check the bodies of a part of a file."""
    report = FrameReport(task.start, task.start)
    checker = BodyChecker(task.told.org_salt, EvidenceChecker(task.told.keys, task.told.shard))
    with RegularFile(task.path) as file, open_or_empty(task.leaves.path) as leaf_file:
        file.size = min(file.size, task.size)
        leaves = LeafReader(leaf_file, task.leaves.segments)
        walker = BodyWalker(file)
        if not task.synchronised:
            report.begin = walker.first_frame(task.start, task.stop)
        if report.begin is None:
            return report
        report.end = report.begin
        prover = BodyProver(file, leaves, checker, task.day, task.leaves.limit)
        while True:
            report.end = prover.prove(report.end, min(task.stop, file.size), report)
            item = next(walker.walk(report.end, task.stop), None)
            if item is None:
                break
            _judge_item(report, checker, item, leaves, task)
    return report


def _judge_item(
    report: FrameReport,
    checker: BodyChecker,
    item: tuple[int, int, BodyFrame | Damage],
    leaves: LeafReader,
    task: BodyTask,
) -> None:
    """Take in what was not proven to be ordinary: the next frame, or what stands where one should."""
    offset, report.end, found = item
    if isinstance(found, Damage):
        report.damages.append((len(report.indexes), found))
    elif found.index >= task.leaves.limit:
        report.beyond.append((found.index, offset))
    else:
        _file_body(report, checker, found, offset, known_leaf(leaves.at(found.index)), task)


def _file_body(
    report: FrameReport, checker: BodyChecker, body: BodyFrame, offset: int, leaf: Leaf | None, task: BodyTask
) -> None:
    if leaf is not None and leaf.kind not in KINDS_WITH_BODY:
        report.stray(body.index, offset, f"a body for a {Kind(leaf.kind).name} record, which has none")
        return
    if leaf is None or leaf.expire_day == task.day:
        report.add(body.index, offset)
    elif task.told.is_moved_to(task.day, leaf):
        report.moved.append(task.told.moved(body.index, offset, leaf, len(report.indexes)))
    else:
        report.stray(body.index, offset, f"a body that belongs into bodies/{leaf.expire_day}")
        return
    judgement = checker.check(body, leaf)
    if judgement.problem is not None:
        report.complain(body.index, offset, judgement.problem, judgement.organization_id)
    if judgement.quarantined is not None:
        report.quarantined[body.index] = judgement.quarantined
    if judgement.erased:
        report.erased[body.index] = judgement.erased


@dataclass(slots=True)
class ShardControls:
    """What a shard's control documents say.

    Attributes:
        log: origin of the shard.
        facts: where to note them, but for HEADS.
        vouched: how many records a signed head vouches for; an EXPIRY behind them is no reason for anything yet.
        policies, heads: see `ChainChecker`.
        starts: SHA-256 of org_salt, by index of the START record.
    """

    log: str
    facts: ControlFacts
    vouched: int
    policies: dict[int, tuple[bytes, int] | None] = field(default_factory=dict)
    heads: HeadsRecords = field(default_factory=HeadsRecords)
    starts: dict[int, bytes] = field(default_factory=dict)

    def note(self, index: int, leaf: Leaf | None, document: ControlDocument) -> None:
        """Take in a document; without a leaf to trust, only what helps to go on behind it."""
        match document:
            case Heads():
                self.heads.note(index, HeadsSaid(document.size, document.count, document.root))
                return
            case PolicyRecord():
                self.policies[index] = (document.org_ref, document.retention_days)
            case DroppedShard():
                self.policies[index] = None
            case Start():
                self.starts[index] = document.org_salt_sha256
        if leaf is not None and not (isinstance(document, _EXCUSES) and index >= self.vouched):
            self.facts.note(self.log, index, leaf, document)


def scan_control(path: Path, leaves: Leaves, controls: ShardControls) -> FrameReport:
    """Check the control documents, and take in what they say."""
    report = FrameReport()
    with open_or_empty(path) as file, open_or_empty(leaves.path) as leaf_file:
        reader = LeafReader(leaf_file, leaves.segments)
        for offset, end, item in BlobWalker(file).walk(0, file.size):
            report.end = end
            if isinstance(item, Damage):
                report.damages.append((len(report.indexes), item))
            elif item.index >= leaves.limit:
                report.beyond.append((item.index, offset))
            else:
                _file_control(report, controls, item, offset, known_leaf(reader.at(item.index)))
    return report


def _file_control(
    report: FrameReport, controls: ShardControls, blob: BlobFrame, offset: int, leaf: Leaf | None
) -> None:
    if leaf is not None and leaf.kind in KINDS_WITH_BODY:
        report.stray(blob.index, offset, f"a control document for an {Kind(leaf.kind).name} record, which has none")
        return
    report.add(blob.index, offset)
    judgement = check_control(blob, leaf)
    if judgement.problem is not None:
        report.complain(blob.index, offset, judgement.problem)
    if judgement.document is not None:
        controls.note(blob.index, leaf, judgement.document)


@dataclass(frozen=True, slots=True)
class QuarantineTask:
    """One day's quarantined bytes, and what the bodies of that day say of them."""

    day: int
    expected: dict[int, Quarantined]
    leaves: Leaves
    told: Told


def scan_quarantine(path: Path, task: QuarantineTask) -> FrameReport:
    """Check quarantined bytes against the cores that speak of them."""
    report = FrameReport()
    with open_or_empty(path) as file, open_or_empty(task.leaves.path) as leaf_file:
        leaves = LeafReader(leaf_file, task.leaves.segments)
        for offset, end, item in BlobWalker(file).walk(0, file.size):
            report.end = end
            if isinstance(item, Damage):
                report.damages.append((len(report.indexes), item))
            elif item.index >= task.leaves.limit:
                report.beyond.append((item.index, offset))
            else:
                _file_quarantined(report, task, item, offset, known_leaf(leaves.at(item.index)))
    return report


def _file_quarantined(
    report: FrameReport, task: QuarantineTask, blob: BlobFrame, offset: int, leaf: Leaf | None
) -> None:
    if leaf is None or (leaf.kind, leaf.expire_day) == (Kind.QUARANTINE, task.day):
        report.add(blob.index, offset)
    elif leaf.kind == Kind.QUARANTINE and task.told.is_moved_to(task.day, leaf):
        report.moved.append(task.told.moved(blob.index, offset, leaf, len(report.indexes)))
    else:
        report.stray(blob.index, offset, "quarantined bytes of a record that has none on this day")
        return
    expected = task.expected.get(blob.index)
    if expected is None:  # its body is missing or altered, which is said there
        return
    if expected != Quarantined(hashlib.sha256(blob.payload).digest(), len(blob.payload)):
        problem = Problem(Verdict.ALTERED, "its quarantined bytes are not those that its core speaks of")
        report.complain(blob.index, offset, problem)
