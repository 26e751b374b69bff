"""Steps 6 and 9 to 11: every leaf has its content, the right one, once, where it belongs, and nothing else is there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.verify import filing
from klyra_collector.verify.files import Unreadable, open_or_empty
from klyra_collector.verify.filing import BodyTask, Complaint, FrameReport, Leaves, QuarantineTask
from klyra_collector.verify.heads import is_interrupted
from klyra_collector.verify.layout import HELD
from klyra_collector.verify.leaves import MICROSECONDS_PER_DAY
from klyra_collector.verify.order import MOVED_TWICE, NO_DAY, FileOrder
from klyra_collector.verify.presence import CONTROL, Absences, Run, absent_of, explain, without_bodies
from klyra_collector.verify.scan import LeafReader, known_leaf
from klyra_collector.verify.tail import Leftover
from klyra_collector.verify.verdicts import Finding, Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from klyra_collector.verify.contents import Quarantined
    from klyra_collector.verify.expiries import BodyLife
    from klyra_collector.verify.filing import ShardControls, Told
    from klyra_collector.verify.findings import Findings, Marks
    from klyra_collector.verify.layout import ShardFolder
    from klyra_collector.verify.order import Gap
    from klyra_collector.verify.retention import Retention
    from klyra_collector.verify.work import Crew

_ABOUT_COPIES: Final = frozenset({Verdict.EXTRA, Verdict.DUPLICATE})  # the record itself may be as it was sealed
_MAX_BEYOND: Final = 100_000  # frames behind the end that are described


class Inventory:
    """Goes through the frame files of one shard.

    Attributes:
        leftovers: frames behind the end, to be judged last.
        controls_are_whole: every control record's document is here, and is the one that was sealed.
        unchecked_quarantine: how many records have quarantined bytes that are not beside the ledger.
    """

    def __init__(self, folder: ShardFolder, leaves: Leaves, marks: Marks, findings: Findings, leaf_count: int) -> None:
        self._folder = folder
        self._is_interrupted = is_interrupted(folder)
        self._leaves = leaves
        self._marks = marks
        self._findings = findings
        self._leaf_count = leaf_count
        self._gaps: defaultdict[int, list[Gap]] = defaultdict(list)
        self._unread: set[int] = set()
        self._bodies_are_unread = False
        self.leftovers: list[Leftover] = []
        self.unchecked_quarantine = 0
        self.controls_are_whole = True
        self._orphans: list[tuple[Path, int, int]] = []  # quarantined bytes without a body in the file of their day

    def check_control(self, controls: ShardControls) -> None:
        """Check the control documents against their leaves, and take in what they say."""
        path = self._folder.control
        try:
            report = filing.scan_control(path, self._leaves, controls)
        except Unreadable as error:
            self._cannot_read(path, error)
            self._unread.add(CONTROL)
            self.controls_are_whole = False
            return
        self.controls_are_whole = not report.complaints
        self._take(report, path, FileOrder(self._marks), CONTROL)

    def body_tasks(self, told: Told) -> list[BodyTask]:
        """Return the parts that all files of bodies are looked at in."""
        tasks: list[BodyTask] = []
        try:
            for path in self._folder.other_body_folders():
                self._unknown_folder(path)
            days = sorted(self._folder.body_days(), key=_own_days_first)
        except Unreadable as error:
            self._cannot_read(self._folder.root / "bodies", error)
            self._bodies_are_unread = True
            return tasks
        for day in days:
            path = self._folder.bodies(day)
            try:
                with open_or_empty(path) as file:
                    tasks += filing.body_tasks(path, file, day, self._leaves, told)
            except Unreadable as error:
                self._cannot_read(path, error)
                self._unread.add(day)
        return tasks

    def check_bodies(self, told: Told, retention: Retention, crew: Crew, progress: Callable[[int, int], None]) -> None:
        """Check all bodies, and the quarantined bytes beside some of them."""
        tasks = self.body_tasks(told)
        total, done = sum(task.stop - task.start for task in tasks), 0
        quarantined: dict[int, Quarantined] = {}
        quarantine_days = self._quarantine_days()
        order, end = FileOrder(self._marks, self._sealed_on), 0
        results = crew.map(filing.scan_bodies, tasks)
        for task, first_report in zip(tasks, results, strict=True):
            report = first_report
            if task.start == 0:
                order, end, quarantined = FileOrder(self._marks, self._sealed_on), 0, {}
            elif report.begin != end:
                report = _repeat(task, end)
            end = report.end
            self._take(report, task.path, order, task.day)
            quarantined.update(report.quarantined)
            done += task.stop - task.start
            progress(done, total)
            if task.stop == task.size:
                quarantine_days.discard(task.day)
                self._check_quarantine(QuarantineTask(task.day, quarantined, self._leaves, told))
        for day in sorted(quarantine_days):
            self._check_quarantine(QuarantineTask(day, {}, self._leaves, told))
        self._judge_orphans(retention)

    def check_presence(self, life: BodyLife) -> None:
        """Say which records have no content and should, and which damaged places held none."""
        absences, nothing_is_absent = Absences(), self._marks.all_seen()
        with open_or_empty(self._leaves.path) as file:
            for first, block in LeafReader(file, self._leaves.segments).runs():
                seen = life.feed(first, block)
                if nothing_is_absent:
                    continue
                for run in absences.feed(first, block, seen):
                    self._explain_run(run, life)
            for run in absences.finish():
                self._explain_run(run, life)
        for file_key, gaps in self._gaps.items():
            self._judge_gaps(self._path_of(file_key), gaps)

    def check_controls_presence(self) -> None:
        """Say which control records have no document; for a ledger whose bodies are elsewhere."""
        absences = Absences()
        with open_or_empty(self._leaves.path) as file:
            for first, block in LeafReader(file, self._leaves.segments).runs():
                seen = self._marks.seen_from(first, len(block) // LEAF_SIZE)
                for run in absences.feed(first, block, without_bodies(block, seen)):
                    self._explain_control(run)
            for run in absences.finish():
                self._explain_control(run)

    def _explain_control(self, run: Run) -> None:
        self.controls_are_whole = False
        if CONTROL not in self._unread:
            self._gaps[CONTROL] = self._explain(
                run, self._folder.control, self._gaps[CONTROL], "its document is not here"
            )
        self._marks.flag_unseen(run.indexes[0], run.last)

    def _take(self, report: FrameReport, path: Path, order: FileOrder, file_key: int) -> None:
        """Take in what was found in a file, or in the next part of it."""
        for complaint in report.complaints:
            self._complain(complaint, path)
        for complaint in order.feed(report):
            # A crash while bodies are moved leaves both places; the next start unlinks the old one.
            if complaint.problem.reason != MOVED_TWICE or not self._is_interrupted:
                self._complain(complaint, path)
        self._gaps[file_key] = order.gaps
        for index, offset in report.beyond:
            self._note_beyond(path, index, offset)
        for index, erased in report.erased.items():
            self._marks.erase(index, erased)

    def _note_beyond(self, path: Path, index: int, offset: int) -> None:
        if index >= self._leaf_count and len(self.leftovers) < _MAX_BEYOND:
            self.leftovers.append(Leftover(path, offset, index, "content"))

    def _explain(self, run: Run, path: Path, gaps: list[Gap], absent: str) -> list[Gap]:
        """Say why the content of a run of records was not seen; return the damaged places that are not the reason."""
        for found in explain(run, [gap for gap in gaps if gap.after == run.after]):
            finding = Finding(
                verdict=found.verdict,
                reason=absent if found.gap is None else found.gap.damage.reason,
                first=found.first,
                last=found.last,
                file=self._folder.name(path),
                offset=None if found.gap is None else found.gap.damage.offset,
                count=found.count,
            )
            self._findings.add(finding)
        return [gap for gap in gaps if gap.after != run.after]

    def _explain_run(self, run: Run, life: BodyLife) -> None:
        """Say why a run's content was not seen; that its file could not be read is said already."""
        path = self._path_of(run.file)
        self.controls_are_whole = self.controls_are_whole and run.file != CONTROL
        if run.file not in self._unread and not (self._bodies_are_unread and run.file != CONTROL):
            self._gaps[run.file] = self._explain(run, path, self._gaps[run.file], life.reason(run.indexes))
        self._marks.flag_unseen(run.indexes[0], run.last)

    def _judge_gaps(self, path: Path, gaps: Iterable[Gap]) -> None:
        """Judge damaged places in which no record is missing: something was put in, or is being written."""
        for gap in gaps:
            if gap.at_end:
                self.leftovers.append(Leftover(path, gap.damage.offset, None, "bytes"))
                continue
            length = gap.damage.end - gap.damage.offset
            reason = f"{length} bytes that belong to no record: {gap.damage.reason}"
            self._findings.add(self._file_finding(Verdict.EXTRA, reason, path, gap.damage.offset))

    def _quarantine_days(self) -> set[int]:
        """Return the days of which there are quarantined bytes."""
        try:
            days = set(self._folder.quarantine_days())
        except Unreadable as error:
            self._cannot_read(self._folder.root, error)
            return set()
        return days

    def _check_quarantine(self, task: QuarantineTask) -> None:
        path = self._folder.quarantined(task.day)
        expected = task.expected
        if path is None:
            self.unchecked_quarantine += len(expected)
            return
        try:
            report = filing.scan_quarantine(path, task)
        except Unreadable as error:
            self._cannot_read(path, error)
            self._marks.flag_each(expected)
            return
        order = FileOrder(_SeenSet(), self._sealed_on)
        for complaint in (*report.complaints, *order.feed(report)):
            self._complain(complaint, path)
        for index, offset in report.beyond:
            self._note_beyond(path, index, offset)
        gaps = order.gaps
        there = {*report.indexes, *(moved.index for moved in report.moved)}
        for run in absent_of(task.day, expected, there):
            gaps = self._explain(run, path, gaps, "its quarantined bytes are not here")
        self._marks.flag_each(expected.keys() - there)
        self._judge_gaps(path, gaps)
        placed = [*zip(report.indexes, report.offsets, strict=True)]
        placed += [(moved.index, moved.offset) for moved in report.moved]
        self._orphans += [(path, index, offset) for index, offset in placed if index not in expected]

    def _judge_orphans(self, retention: Retention) -> None:
        """Judge quarantined bytes whose body is gone: they should have gone with it."""
        with open_or_empty(self._leaves.path) as file:
            leaves = LeafReader(file, self._leaves.segments)
            for path, index, offset in self._orphans:
                leaf = None if self._marks.is_seen(index) else known_leaf(leaves.at(index))
                if leaf is not None and retention.absent(leaf).verdict is Verdict.EXPIRED_OK:
                    problem = Problem(Verdict.OVER_RETAINED, "its quarantined bytes are here, and its body is deleted")
                    self._complain(Complaint(index, offset, problem), path)

    def _sealed_on(self, index: int) -> int:
        """Return the UTC day on which a record was sealed."""
        with open_or_empty(self._leaves.path) as file:
            leaf = known_leaf(LeafReader(file, self._leaves.segments).at(index))
        return NO_DAY if leaf is None else leaf.ingest_us // MICROSECONDS_PER_DAY

    def _complain(self, complaint: Complaint, path: Path) -> None:
        index, problem = complaint.index, complaint.problem
        self._findings.add(
            Finding(
                verdict=problem.verdict,
                reason=problem.reason,
                first=index,
                last=index,
                file=self._folder.name(path),
                offset=complaint.offset,
                organization_id=complaint.organization_id,
            )
        )
        if problem.verdict not in _ABOUT_COPIES:
            self._marks.flag(index, index)

    def _cannot_read(self, path: Path, error: Unreadable) -> None:
        self._findings.add(self._file_finding(Verdict.UNVERIFIABLE, f"it cannot be read: {error}", path, None))

    def _file_finding(self, verdict: Verdict, reason: str, path: Path, offset: int | None) -> Finding:
        return Finding(verdict=verdict, reason=reason, file=self._folder.name(path), offset=offset)

    def _path_of(self, file_key: int) -> Path:
        return self._folder.control if file_key == CONTROL else self._folder.bodies(file_key)

    def _unknown_folder(self, path: Path) -> None:
        self._findings.add(self._file_finding(Verdict.EXTRA, "it is no folder of a day's bodies", path, None))


class _SeenSet:
    """Remembers whose quarantined bytes were seen."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def see(self, index: int) -> bool:
        """See `Seen`."""
        before = index in self._seen
        self._seen.add(index)
        return before


def _own_days_first(day: int) -> tuple[bool, int]:
    """Order files so that what was moved comes behind where it stood before."""
    return day == HELD, day


def _repeat(task: BodyTask, begin: int) -> FrameReport:
    """Look at a part again from where the part before it ended: that is where its first frame begins."""
    if begin >= task.stop:
        return FrameReport(begin, begin)
    return filing.scan_bodies(replace(task, start=begin, synchronised=True))
