"""Verify one run of a packet: that its leaves are one organization's chain, and reach as far as the packet says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klyra_audit.format import canonical, control, packet
from klyra_audit.format.control import Heads, PolicyRecord
from klyra_audit.format.errors import FormatError, LeafError, PacketError, ProofError
from klyra_audit.format.frame import BlobFrame
from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_audit.format.merkle import leaf_hash
from klyra_audit.format.packet_lines import ControlLine, HeadsFile
from klyra_audit.format.sections import control_commit
from klyra_collector.verify.contents import check_control
from klyra_collector.verify.findings import Findings
from klyra_collector.verify.packet_trust import Untrusted
from klyra_collector.verify.verdicts import Finding, Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.format.control import ControlDocument
    from klyra_audit.format.heads import Head
    from klyra_audit.format.policy import Opened
    from klyra_collector.verify.facts import ControlFacts
    from klyra_collector.verify.packet_file import PacketFile
    from klyra_collector.verify.packet_trust import Trust

_LEAVES_AT_ONCE: Final = 8192
_MAX_CONTROL_BYTES: Final = 256 * 1024 * 1024
_MICROSECONDS_PER_DAY: Final = 86_400_000_000


@dataclass(slots=True)
class ProvedControl:
    """A control document that its leaf commits to, with a leaf that is proved.

    Attributes:
        index: in the shard; as the packet says it for a leaf of the run, whose chain proves its order only.
        leaf: unpacked.
        document: what it says.
    """

    index: int
    leaf: Leaf
    document: ControlDocument


@dataclass(slots=True)
class RunState:
    """What was found out about a run.

    Attributes:
        controls: the documents that can be relied on, in order of index.
        heads: the HEADS record that the run ends at, and its leaf and index.
        opened: the checkpoint that the run is proved by.
        first_us, last_us: ingest times of the first and of the last leaf.
    """

    controls: list[ProvedControl] = field(default_factory=list)
    heads: Heads | None = None
    heads_leaf: Leaf | None = None
    heads_index: int = -1
    opened: Opened | None = None
    first_us: int | None = None
    last_us: int | None = None


class RunVerification:
    """One run. Findings name records by their org_seq.

    Attributes:
        findings: about its leaves and members.
        flagged, seen: one byte for each leaf: whether a finding is about it, whether an entry is.
        state: what others rely on.
    """

    def __init__(
        self, file: PacketFile, number: int, run: packet.Run, org_ref: bytes, trust: Trust, limit: int
    ) -> None:
        self.run = run
        self.number = number
        self.count = file.size(packet.leaves_member(number)) // LEAF_SIZE
        self.findings = Findings(limit)
        self.flagged = bytearray(self.count)
        self.seen = bytearray(self.count)
        self.state = RunState()
        self._file = file
        self._org_ref = org_ref
        self._trust = trust
        self._block: tuple[int, bytes] = (0, b"")
        self._own_controls: dict[int, bytes] = {}

    def verify(self) -> None:
        """Check everything but the entries."""
        last = self._check_chain()
        self._check_end(last)
        self._check_controls()
        self._check_plans()

    def leaf(self, place: int) -> bytes:
        """Return a leaf of the run by its place; fastest in ascending order."""
        begin, block = self._block
        if not begin <= place < begin + len(block) // LEAF_SIZE:
            begin = place
            member = packet.leaves_member(self.number)
            block = self._file.read(member, begin * LEAF_SIZE, _LEAVES_AT_ONCE * LEAF_SIZE)
            self._block = begin, block
        offset = (place - begin) * LEAF_SIZE
        return block[offset : offset + LEAF_SIZE]

    def say(
        self, problem: Problem, first: int | None = None, last: int | None = None, *, file: str, count: int = 1
    ) -> None:
        """Take in a finding about places of the run, or about a member."""
        base = self.run.first_seq
        if first is not None:
            last = first if last is None else last
            self.flagged[first : last + 1] = b"\1" * (last + 1 - first)
        self.findings.add(
            Finding(
                verdict=problem.verdict,
                reason=problem.reason,
                first=None if first is None else first + base,
                last=None if last is None else last + base,
                file=file,
                count=count,
            )
        )

    def note_facts(self, facts: ControlFacts) -> None:
        """Tell what the documents of the organization's own chain say about retention."""
        if self.run.origin not in facts.logs:
            facts.logs.append(self.run.origin)
        for proved in self.state.controls:
            if proved.leaf.org_ref == self._org_ref:
                # By org_seq: it orders a chain as the index does, and is sealed in the leaf.
                facts.note(self.run.origin, proved.leaf.org_seq, proved.leaf, proved.document)

    def _leaves(self) -> Iterator[tuple[int, bytes]]:
        for place in range(self.count):
            yield place, self.leaf(place)

    def _check_chain(self) -> bytes | None:
        """Follow the chain; return its last leaf."""
        member = packet.leaves_member(self.number)
        self._check_length(member)
        previous: bytes | None = None
        encoded: bytes | None = None
        last_us = 0
        for place, encoded in self._leaves():
            try:
                leaf = Leaf.unpack(encoded)
            except LeafError as error:
                problem = Problem(Verdict.UNVERIFIABLE, f"{error}; a newer verifier may know it")
                self.say(problem, place, file=member)
                previous = leaf_hash(encoded)
                continue
            broken = self._judge_link(leaf, place, previous, last_us)
            if broken is not None:
                self.say(broken, place, file=member)
            previous, last_us = leaf_hash(encoded), leaf.ingest_us
            self.state.first_us = leaf.ingest_us if self.state.first_us is None else self.state.first_us
            self.state.last_us = leaf.ingest_us
            if not Kind(leaf.kind).has_body:
                self._own_controls[leaf.org_seq] = encoded
        return encoded

    def _check_length(self, member: str) -> None:
        size = self._file.size(member)
        if size % LEAF_SIZE:
            self.say(Problem(Verdict.TRUNCATED, "it ends within a leaf"), file=member)
        if self.count < self.run.count:
            missing = self.run.count - self.count
            reason = f"it has {self.count} leaves, and the manifest says {self.run.count}"
            self.say(Problem(Verdict.TRUNCATED, reason), file=member, count=missing)
        elif self.count > self.run.count:
            reason = f"it has {self.count} leaves, and the manifest says {self.run.count}"
            self.say(Problem(Verdict.EXTRA, reason), file=member, count=self.count - self.run.count)

    def _judge_link(self, leaf: Leaf, place: int, previous: bytes | None, last_us: int) -> Problem | None:
        if leaf.org_ref != self._org_ref:
            return Problem(Verdict.ORG_CHAIN, "it is a leaf of another organization's chain")
        if leaf.org_seq != self.run.first_seq + place:
            reason = f"its org_seq is {leaf.org_seq} where {self.run.first_seq + place} comes next in the chain"
            return Problem(Verdict.ORG_CHAIN, reason)
        expected = bytes(32) if leaf.org_seq == 0 else previous
        if expected is not None and leaf.org_prev != expected:
            return Problem(Verdict.ORG_CHAIN, "its org_prev is not the hash of its organization's record before it")
        if leaf.ingest_us < last_us:
            reason = f"it was ingested {last_us - leaf.ingest_us} microseconds before the record in front of it"
            return Problem(Verdict.CLOCK, reason)
        return None

    def _check_end(self, last: bytes | None) -> None:
        """Check that the last leaf is in the log, and was the organization's newest there."""
        index: int | None = None
        member = packet.proof_member(self.number)
        if last is not None:
            try:
                encoded = self._file.small(member, packet.SMALL_MEMBER_BYTES)
                index, self.state.opened = self._trust.index_of(last, encoded, self.run.origin)
            except PacketError as error:
                self.say(Problem(Verdict.TRUNCATED, str(error)), self.count - 1, file=member)
            except Untrusted as error:
                # The whole run rests on this one proof.
                self.say(error.problem, 0, self.count - 1, file=member, count=self.count)
            else:
                self._check_quorum(self.state.opened, member)
        self._check_heads(last, index)

    def _check_heads(self, last: bytes | None, index: int | None) -> None:
        member = packet.heads_member(self.number)
        try:
            file = HeadsFile.parse(self._file.small(member, packet.SMALL_MEMBER_BYTES))
            leaf = Leaf.unpack(file.leaf)
            place, opened = self._trust.index_of(file.leaf, file.proof, self.run.origin)
            heads = _heads(file, leaf, place)
            head = file.heads.verify(heads.root, heads.count)
        except Untrusted as error:
            self.say(error.problem, file=member)
        except PacketError as error:
            verdict = Verdict.ALTERED if member in self._file.names else Verdict.TRUNCATED
            self.say(Problem(verdict, str(error)), file=member)
        except ProofError as error:
            self.say(Problem(Verdict.ROOT_MISMATCH, f"what it says of the newest record: {error}"), file=member)
        except FormatError as error:
            self.say(Problem(Verdict.CONTROL_ALTERED, str(error)), file=member)
        else:
            self.state.heads, self.state.heads_leaf, self.state.heads_index = heads, leaf, place
            self.state.opened = self.state.opened or opened
            self._check_quorum(opened, member)
            if file.heads.org_ref != self._org_ref:
                self.say(Problem(Verdict.ORG_CHAIN, "it is about another organization"), file=member)
                return
            problem = self._judge_newest(head, last, index)
            if problem is not None:
                self.say(problem, file=member)

    def _judge_newest(self, head: Head | None, last: bytes | None, index: int | None) -> Problem | None:
        if head is None:
            if last is None:
                return None
            return Problem(Verdict.EXTRA, "it proves that the organization has no record, and there are leaves")
        org_seq = head.org_seq
        end = self.run.first_seq + self.count - 1
        if last is None or org_seq > end:
            reason = f"the organization's newest record is number {org_seq} of its chain, and the run ends before it"
            return Problem(Verdict.TRUNCATED, reason)
        if org_seq != end or head.leaf_hash != leaf_hash(last) or index not in (None, head.index):
            return Problem(Verdict.ORG_CHAIN, "the newest record that it names is not the run's last leaf")
        return None

    def _check_quorum(self, opened: Opened | None, member: str) -> None:
        if opened is not None and not opened.quorum_met:
            reason = "the checkpoint it is proved by lacks the cosignatures that the policy asks for"
            self.say(Problem(Verdict.STALE_WITNESS, reason), file=member)

    def _check_controls(self) -> None:
        member = packet.control_member(self.number)
        seen: set[int] = set()
        last = -1
        try:
            for number, encoded in enumerate(self._file.lines(member, packet.LINE_BYTES, _MAX_CONTROL_BYTES)):
                line = ControlLine.parse(encoded)
                if line.index <= last:
                    verdict = Verdict.DUPLICATE if line.index == last else Verdict.REORDERED
                    self.say(Problem(verdict, f"line {number + 1} stands out of order"), file=member)
                    continue
                last = line.index
                self._take_control(line, seen, member)
        except PacketError as error:
            self.say(Problem(Verdict.CONTROL_ALTERED, str(error)), file=member)
        for org_seq in sorted(self._own_controls.keys() - seen):
            place = org_seq - self.run.first_seq
            problem = Problem(Verdict.MISSING, "it is a control record, and its document is not here")
            self.say(problem, place if 0 <= place < self.count else None, file=member)

    def _take_control(self, line: ControlLine, seen: set[int], member: str) -> None:
        try:
            leaf = Leaf.unpack(line.leaf)
        except LeafError as error:
            self.say(Problem(Verdict.CONTROL_ALTERED, f"record {line.index}: {error}"), file=member)
            return
        is_own = leaf.org_ref == self._org_ref and self._own_controls.get(leaf.org_seq) == line.leaf
        if is_own:
            seen.add(leaf.org_seq)
        place = leaf.org_seq - self.run.first_seq if is_own else None
        problem = self._judge_control(line, leaf, is_own=is_own)
        if problem is not None:
            self.say(problem, place, file=member)

    def _judge_control(self, line: ControlLine, leaf: Leaf, *, is_own: bool) -> Problem | None:
        problem = self._judge_place(line, leaf, is_own=is_own)
        if problem is not None:
            return problem
        judgement = check_control(BlobFrame(line.index, line.document), leaf)
        if judgement.document is not None:
            self.state.controls.append(ProvedControl(line.index, leaf, judgement.document))
        return judgement.problem

    def _judge_place(self, line: ControlLine, leaf: Leaf, *, is_own: bool) -> Problem | None:
        """Say what keeps a control record's leaf from being one of the run's log."""
        if line.log != self.run.origin:
            return Problem(Verdict.EXTRA, f"record {line.index} is of {line.log}, another log than the run's")
        if Kind(leaf.kind).has_body:
            return Problem(Verdict.EXTRA, f"record {line.index} is no control record")
        if line.proof is None:
            if is_own:
                return None
            return Problem(Verdict.CONTROL_ALTERED, f"record {line.index} is no leaf of the run, and has no proof")
        try:
            index, _ = self._trust.index_of(line.leaf, line.proof, line.log)
        except Untrusted as error:
            return error.problem
        return None if index == line.index else Problem(Verdict.ALTERED, f"record {line.index} is proved to be {index}")

    def _check_plans(self) -> None:
        """Check each leaf's day of expiry by the POLICY in force."""
        member = packet.leaves_member(self.number)
        days: dict[int, int] = {}
        in_force: int | None = None
        for proved in self.state.controls:
            if isinstance(proved.document, PolicyRecord) and proved.leaf.org_ref == self._org_ref:
                days[proved.leaf.org_seq] = proved.document.retention_days
        for org_seq in sorted(days):
            if org_seq < self.run.first_seq:
                in_force = days[org_seq]
        for place, encoded in self._leaves():
            kind = encoded[1]
            in_force = days.get(self.run.first_seq + place, in_force) if kind == Kind.POLICY else in_force
            if kind not in (Kind.EVENT, Kind.QUARANTINE) or self.flagged[place]:
                continue
            leaf = Leaf.unpack(encoded)
            kept = leaf.expire_day - leaf.ingest_us // _MICROSECONDS_PER_DAY - 1
            if kept != in_force:
                says = "no POLICY is in force for it" if in_force is None else f"the POLICY in force says {in_force}"
                self.say(Problem(Verdict.PLAN_MISMATCH, f"it is kept for {kept} days, and {says}"), place, file=member)


def _heads(file: HeadsFile, leaf: Leaf, index: int) -> Heads:
    """Return the HEADS record; `FormatError` if the leaf commits to another document, or it is not of its index."""
    if control_commit(file.document) != leaf.commit:
        raise FormatError("it is not the HEADS document that its leaf commits to")
    document = control.parse(leaf.kind, canonical.parse_canonical(file.document))
    if not isinstance(document, Heads) or document.size != index:
        raise FormatError("it is no HEADS record, or not of the place where it stands")
    return document
