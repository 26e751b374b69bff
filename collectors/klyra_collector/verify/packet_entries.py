"""Verify a packet's entries against the leaves of its runs, that none is missing, and the rendering for people."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.format import packet, rendering, sections
from klyra_audit.format.errors import FormatError, LeafError, NoteError, PacketError, ProofError
from klyra_audit.format.keys import VerifyingKey
from klyra_audit.format.leaf import Flag, Kind, Leaf
from klyra_audit.format.packet_lines import EntryLine, Erased, Opened
from klyra_audit.format.sections import ABSENT, Commitments
from klyra_collector.verify.retention import MICROSECONDS_PER_DAY, Retention
from klyra_collector.verify.verdicts import Finding, Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from klyra_audit.format.control import Key
    from klyra_audit.format.packet import Manifest
    from klyra_audit.format.packet_lines import Section
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.findings import Findings
    from klyra_collector.verify.packet_file import PacketFile
    from klyra_collector.verify.packet_run import RunVerification

_BATCH: Final = 500
_NAMES: Final[tuple[SectionName, ...]] = ("core", "actor", "target")
_SECTION_FLAGS: Final = Flag.HAS_ACTOR.value | Flag.HAS_TARGET.value
_BATCH_CHECKED: Final = Flag.BATCH_CHECKED.value
_RENDER: Final = {packet.CSV: rendering.comma_separated_entries, packet.JSON: rendering.json_array_of_entries}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What entries of one run are judged by.

    Attributes:
        run: its leaves.
        retention: what may be gone.
        keys: KEY records by ordinal, and every one that has a verifier key.
    """

    run: RunVerification
    retention: Retention
    keys: Sequence[Key]


class EntriesVerification:
    """All entries of a packet.

    Args:
        file, manifest: the packet.
        runs: by origin.
        org_salt: None where it is not to be trusted.
        day: the UTC day since 1970 on which the packet was made, as far as that is proved.
        findings: what is about no run.
    """

    def __init__(
        self,
        file: PacketFile,
        manifest: Manifest,
        runs: Iterable[RunFacts],
        *,
        org_salt: bytes | None,
        day: int,
        findings: Findings,
    ) -> None:
        self._file = file
        self._manifest = manifest
        self._runs = {facts.run.run.origin: facts for facts in runs}
        self._order = {origin: place for place, origin in enumerate(self._runs)}
        self._org_salt = org_salt
        self._day = day
        self._findings = findings
        self._last = (-1, -1)
        self.count = 0
        self._renderable = True

    def verify(self, progress: Callable[[int, int], None]) -> None:
        """Check every entry, then the rendering, then what is not there."""
        self._compare_rendering(self._entries(progress))
        if self.count != self._manifest.counts.entries:
            reason = f"it has {self.count} entries, and the manifest says {self._manifest.counts.entries}"
            verdict = Verdict.TRUNCATED if self.count < self._manifest.counts.entries else Verdict.EXTRA
            self._say(Problem(verdict, reason), packet.ENTRIES)
        if self._manifest.complete:
            for facts in self._runs.values():
                self._judge_absent(facts)

    def _entries(self, progress: Callable[[int, int], None]) -> Iterator[dict[str, Any]]:
        """Check each line; yield its entry if it can be rendered."""
        total = self._manifest.counts.entries
        try:
            for number, encoded in enumerate(self._file.lines(packet.ENTRIES, packet.LINE_BYTES), 1):
                self.count = number
                try:
                    document = self._check(EntryLine.parse(encoded), number)
                except PacketError as error:
                    self._say(Problem(Verdict.ALTERED, f"line {number}: {error}"), packet.ENTRIES)
                    document = None
                if document is None:
                    self._renderable = False
                else:
                    yield rendering.entry_of(document)
                if number % _BATCH == 0:
                    progress(number, total)
        except PacketError as error:
            self._say(Problem(Verdict.TRUNCATED, str(error)), packet.ENTRIES)
            self._renderable = False

    def _check(self, line: EntryLine, number: int) -> dict[str, Any] | None:
        """Judge an entry; return its document if it can be rendered."""
        facts = self._runs.get(line.log)
        if facts is None:
            self._say(
                Problem(Verdict.EXTRA, f"line {number} is of {line.log}, of which there is no run"), packet.ENTRIES
            )
            return None
        run = facts.run
        place = line.org_seq - run.run.first_seq
        if not 0 <= place < run.count:
            reason = f"line {number} is record {line.org_seq} of its chain, which the run does not reach"
            run.say(Problem(Verdict.EXTRA, reason), file=packet.ENTRIES)
            return _join(line)
        problem = self._judge_place(facts, line, place)
        document = _join(line)
        if problem is None:
            problem = self._judge_content(facts, line, place, document)
        if problem is not None:
            run.say(problem, place, file=packet.ENTRIES)
        return document

    def _judge_place(self, facts: RunFacts, line: EntryLine, place: int) -> Problem | None:
        run = facts.run
        if run.seen[place]:
            return Problem(Verdict.DUPLICATE, "its entry stands here a second time")
        run.seen[place] = 1
        here = self._order[line.log], line.org_seq
        if here < self._last:
            return Problem(Verdict.REORDERED, "its entry stands behind those of later records")
        self._last = here
        return None

    def _judge_content(
        self, facts: RunFacts, line: EntryLine, place: int, document: dict[str, Any] | None
    ) -> Problem | None:
        try:
            leaf = Leaf.unpack(facts.run.leaf(place))
        except LeafError as error:
            return Problem(Verdict.UNVERIFIABLE, str(error))
        if leaf.kind != Kind.EVENT:
            return Problem(Verdict.EXTRA, f"it is a record of kind {Kind(leaf.kind).name}, which has no entry")
        if leaf.ingest_us not in self._manifest.window:
            return Problem(Verdict.EXTRA, "it was sealed outside the packet's window")
        return (
            _judge_commitments(line, leaf)
            or self._judge_document(leaf, document)
            or _judge_evidence(facts.keys, line, leaf)
            or self._judge_retention(facts, line, leaf, place)
        )

    def _judge_document(self, leaf: Leaf, document: dict[str, Any] | None) -> Problem | None:
        if document is None:
            return Problem(Verdict.ALTERED, "its sections do not join to an entry")
        organization_id = document.get("organization_id")
        if organization_id != self._manifest.organization_id:
            return Problem(Verdict.ORG_CHAIN, "its core names another organization than the packet's")
        if self._org_salt is None:
            return None
        if sections.organization_reference(self._org_salt, organization_id) != leaf.org_ref:
            return Problem(Verdict.ORG_CHAIN, "its core names another organization than the one it was sealed for")
        return None

    def _judge_retention(self, facts: RunFacts, line: EntryLine, leaf: Leaf, place: int) -> Problem | None:
        retention = facts.retention
        problem = retention.present(leaf, self._day)
        erased = False
        for name in _NAMES:
            section: Section = getattr(line, name)
            if isinstance(section, Erased):
                erased = True
                verdict = retention.redacted(leaf, name)
                if verdict is not Verdict.REDACTED_OK:
                    problem = problem or Problem(verdict, f"its {name} section is erased, and no ERASURE says so")
            elif isinstance(section, Opened):
                problem = problem or retention.unredacted(leaf, name)
        if problem is None and erased and not facts.run.flagged[place]:
            facts.run.flagged[place] = 1
            facts.run.findings.count(Verdict.REDACTED_OK, 1)
        return problem

    def _judge_absent(self, facts: RunFacts) -> None:
        """Judge the events of the window that have no entry: at either end of it they were cut off."""
        run = facts.run
        waiting: list[int] = []
        any_seen = False
        for place in self._expected(run):
            if run.seen[place]:
                self._judge_gap(facts, waiting, cut=not any_seen)
                waiting, any_seen = [], True
            elif not self._may_be_absent(facts, place):
                waiting.append(place)
        self._judge_gap(facts, waiting, cut=True)

    def _expected(self, run: RunVerification) -> Iterator[int]:
        window = self._manifest.window
        for place in range(run.count):
            encoded = run.leaf(place)
            if encoded[1] == Kind.EVENT and int.from_bytes(encoded[32:40]) in window:
                yield place

    def _may_be_absent(self, facts: RunFacts, place: int) -> bool:
        """Say whether an event is gone because its time has come, and count it if so."""
        try:
            leaf = Leaf.unpack(facts.run.leaf(place))
        except LeafError:
            return True  # said already, of the leaf itself
        problem = facts.retention.absent(leaf)
        # An export shows what is still visible on its day; that the body is deleted as well is not its business.
        if problem.verdict is not Verdict.EXPIRED_OK and facts.retention.effective_expire(leaf) > self._day:
            return False
        if not facts.run.flagged[place]:
            facts.run.flagged[place] = 1
            facts.run.findings.count(Verdict.EXPIRED_OK, 1)
        return True

    def _judge_gap(self, facts: RunFacts, places: list[int], *, cut: bool) -> None:
        if not places:
            return
        if cut:
            problem = Problem(Verdict.TRUNCATED, "the entries at this end of the window are not here")
        else:
            problem = Problem(Verdict.MISSING, "it was sealed within the window, and its entry is not here")
        for first, last in _spans(places):
            facts.run.say(problem, first, last, file=packet.ENTRIES, count=last - first + 1)

    def _compare_rendering(self, entries: Iterator[dict[str, Any]]) -> None:
        """Render the entries again as they come, and compare with the packet's file byte for byte."""
        name = self._manifest.rendering
        offset, differs = 0, None
        for block in _RENDER[name](_batches(entries)):
            if differs is None and self._renderable and name in self._file.names:
                differs = None if self._file.read(name, offset, len(block)) == block else offset
            offset += len(block)
        if name not in self._file.names or not self._renderable:
            if name in self._file.names:
                reason = "it could not be compared, since entries that it is made of are damaged"
                self._say(Problem(Verdict.UNVERIFIABLE, reason), name)
            return
        if differs is None and self._file.size(name) != offset:
            differs = min(offset, self._file.size(name))
        if differs is not None:
            self._findings.add(
                Finding(
                    verdict=Verdict.ALTERED,
                    reason="it is not what the entries look like when they are written out",
                    file=name,
                    offset=differs,
                )
            )

    def _say(self, problem: Problem, file: str) -> None:
        self._findings.add(Finding(verdict=problem.verdict, reason=problem.reason, file=file))


def _batches(entries: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _join(line: EntryLine) -> dict[str, Any] | None:
    """Return the entry's document, None if its sections are none of an event."""
    try:
        document = sections.join(line.sections())
        rendering.entry_of(document)
    except (FormatError, KeyError, TypeError, AttributeError):
        return None
    return document if type(document["metadata"]) is dict else None


def _judge_commitments(line: EntryLine, leaf: Leaf) -> Problem | None:
    proofs = Commitments(*(_commitment(name, getattr(line, name)) for name in _NAMES))
    if proofs.event_commit() != leaf.commit:
        return Problem(Verdict.ALTERED, "its sections and salts are not those that the leaf commits to")
    expected = 0 if proofs.actor == ABSENT else Flag.HAS_ACTOR.value
    expected |= 0 if proofs.target == ABSENT else Flag.HAS_TARGET.value
    if leaf.flags & _SECTION_FLAGS != expected:
        return Problem(Verdict.ALTERED, "the leaf's flags speak of other sections than the entry has")
    return None


def _commitment(name: SectionName, section: Section) -> bytes:
    if section is None:
        return ABSENT
    if isinstance(section, Erased):
        return section.commitment
    return sections.section_commitment(name, section.salt, section.encoded)


def _judge_evidence(keys: Sequence[Key], line: EntryLine, leaf: Leaf) -> Problem | None:
    """Check the emitter's signature, where the collector said that it had."""
    evidence = line.evidence
    if evidence is None:
        if not leaf.flags & _BATCH_CHECKED:
            return None
        return Problem(Verdict.EMITTER_SIG, "its emitter signed it, and the signature is not here")
    boot = next((key for key in keys if key.ordinal == leaf.emitter), None)
    if boot is None:
        return Problem(Verdict.EMITTER_SIG, "no KEY record says which emitter sent it")
    vkeys = dict.fromkeys(key.vkey for key in keys if key.emitter_id == boot.emitter_id and key.vkey is not None)
    reason = "no KEY record has a key of its emitter"
    for vkey in vkeys:
        try:
            batch = evidence.verify(leaf.commit, VerifyingKey.parse(vkey))
        except (NoteError, ProofError) as error:
            reason = str(error)
            continue
        if (batch.boot, batch.first_seq + evidence.position) == (boot.boot, leaf.emitter_seq):
            return None
        reason = "the signature is for another place in the emitter's sequence"
    return Problem(Verdict.EMITTER_SIG, reason)


def _spans(places: list[int]) -> Iterator[tuple[int, int]]:
    """Yield ascending places as inclusive ranges."""
    first = last = places[0]
    for place in chain(places[1:], [-1]):
        if place != last + 1:
            yield first, last
            first = place
        last = place


__all__ = ["MICROSECONDS_PER_DAY", "EntriesVerification", "RunFacts"]
