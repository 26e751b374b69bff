"""The passes over a shard's frame files: what stands in them, where, and whether it is what the leaves commit to."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klyra_audit.format.leaf import Kind, Leaf
from klyra_collector.verify.contents import BodyChecker, ControlFacts, Problem, Quarantined, check_control
from klyra_collector.verify.files import RegularFile, open_or_empty
from klyra_collector.verify.leaves import KINDS_WITH_BODY
from klyra_collector.verify.scan import LeafReader, known_leaf
from klyra_collector.verify.verdicts import Verdict
from klyra_collector.verify.walk import BlobWalker, BodyWalker, Damage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_audit.format.frame import BlobFrame, BodyFrame
    from klyra_collector.verify.alignment import Segment

BYTES_PER_TASK: Final = 8 * 1024 * 1024


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyTask:
    """What begins in [start, stop) of one day's file of bodies.

    Attributes:
        path: the file, `size` bytes long when it was listed.
        day: its expiry day.
        synchronised: a frame begins at `start`; otherwise the first whole one behind it is looked for.
        leaves: to check against.
        org_salt: None checks everything but the org_ref.
    """

    path: Path
    size: int
    day: int
    start: int
    stop: int
    synchronised: bool
    leaves: Leaves
    org_salt: bytes | None


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
    """

    begin: int | None = 0
    end: int = 0
    indexes: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    complaints: list[Complaint] = field(default_factory=list)
    damages: list[tuple[int, Damage]] = field(default_factory=list)
    beyond: list[tuple[int, int]] = field(default_factory=list)
    quarantined: dict[int, Quarantined] = field(default_factory=dict)

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


def body_tasks(path: Path, size: int, day: int, leaves: Leaves, org_salt: bytes | None) -> Iterator[BodyTask]:
    """Yield the tasks that together look at one day's file."""
    for start in range(0, size, BYTES_PER_TASK):
        yield BodyTask(
            path=path,
            size=size,
            day=day,
            start=start,
            stop=min(start + BYTES_PER_TASK, size),
            synchronised=start == 0,
            leaves=leaves,
            org_salt=org_salt,
        )


def scan_bodies(task: BodyTask) -> FrameReport:
    """Check the bodies of a part of a file."""
    report = FrameReport(task.start, task.start)
    checker = BodyChecker(task.org_salt)
    with RegularFile(task.path) as file, open_or_empty(task.leaves.path) as leaf_file:
        file.size = min(file.size, task.size)
        leaves = LeafReader(leaf_file, task.leaves.segments)
        walker = BodyWalker(file)
        if not task.synchronised:
            report.begin = walker.first_frame(task.start, task.stop)
        if report.begin is None:
            return report
        report.end = report.begin
        for offset, end, item in walker.walk(report.begin, task.stop):
            report.end = end
            if isinstance(item, Damage):
                report.damages.append((len(report.indexes), item))
            elif item.index >= task.leaves.limit:
                report.beyond.append((item.index, offset))
            else:
                _file_body(report, checker, item, offset, known_leaf(leaves.at(item.index)), task.day)
    return report


def _file_body(
    report: FrameReport, checker: BodyChecker, body: BodyFrame, offset: int, leaf: Leaf | None, day: int
) -> None:
    if leaf is not None and leaf.kind not in KINDS_WITH_BODY:
        report.stray(body.index, offset, f"a body for a {Kind(leaf.kind).name} record, which has none")
        return
    if leaf is not None and leaf.expire_day != day:
        report.stray(body.index, offset, f"a body that belongs into bodies/{leaf.expire_day}")
        return
    report.add(body.index, offset)
    judgement = checker.check(body, leaf)
    if judgement.problem is not None:
        report.complain(body.index, offset, judgement.problem, judgement.organization_id)
    if judgement.quarantined is not None:
        report.quarantined[body.index] = judgement.quarantined


def scan_control(path: Path, leaves: Leaves) -> tuple[FrameReport, ControlFacts]:
    """Check the control documents, and return what they say."""
    report, facts = FrameReport(), ControlFacts()
    with open_or_empty(path) as file, open_or_empty(leaves.path) as leaf_file:
        reader = LeafReader(leaf_file, leaves.segments)
        for offset, end, item in BlobWalker(file).walk(0, file.size):
            report.end = end
            if isinstance(item, Damage):
                report.damages.append((len(report.indexes), item))
            elif item.index >= leaves.limit:
                report.beyond.append((item.index, offset))
            else:
                _file_control(report, facts, item, offset, known_leaf(reader.at(item.index)))
    return report, facts


def _file_control(report: FrameReport, facts: ControlFacts, blob: BlobFrame, offset: int, leaf: Leaf | None) -> None:
    if leaf is not None and leaf.kind in KINDS_WITH_BODY:
        report.stray(blob.index, offset, f"a control document for an {Kind(leaf.kind).name} record, which has none")
        return
    report.add(blob.index, offset)
    judgement = check_control(blob, leaf)
    if judgement.problem is not None:
        report.complain(blob.index, offset, judgement.problem)
    if judgement.document is not None and not facts.note(blob.index, judgement.document) and leaf is not None:
        problem = Problem(Verdict.UNVERIFIABLE, f"its {judgement.document['type']} document cannot be understood")
        report.complain(blob.index, offset, problem)


@dataclass(frozen=True, slots=True)
class QuarantineTask:
    """One day's quarantined bytes, and what the bodies of that day say of them."""

    path: Path
    day: int
    expected: dict[int, Quarantined]
    leaves: Leaves


def scan_quarantine(task: QuarantineTask) -> FrameReport:
    """Check quarantined bytes against the cores that speak of them."""
    report = FrameReport()
    with open_or_empty(task.path) as file, open_or_empty(task.leaves.path) as leaf_file:
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
    if leaf is not None and (leaf.kind, leaf.expire_day) != (Kind.QUARANTINE, task.day):
        report.stray(blob.index, offset, "quarantined bytes of a record that has none on this day")
        return
    report.add(blob.index, offset)
    expected = task.expected.get(blob.index)
    if expected is None:  # its body is missing or altered, which is said there
        return
    if expected != Quarantined(hashlib.sha256(blob.payload).digest(), len(blob.payload)):
        problem = Problem(Verdict.ALTERED, "its quarantined bytes are not those that its core speaks of")
        report.complain(blob.index, offset, problem)
