"""Verify an export packet, in numbered steps, from the file and the pinned policy alone.

(1) Open the archive, which has one spelling only, and read the manifest.
(2) See that the members are those that the manifest's runs need, with the bytes it says.
(3) Follow the keys: from those that are pinned, along the records that close shards and rotate keys.
(4) Check the EXPORT record, whose leaf commits to the manifest, and its proof.
(5) Check each run: the chain of its leaves back from the one that is proved, that none follows, control documents.
(6) Check org_salt against START, and that the runs cover the window: every shard that lies in it, without a gap.
(7) Check each entry against its leaf; what has no entry must have expired; what is erased must say why.
(8) Write the rendering again from the entries, and compare.

The packet's own `policy` is for reading; it is trusted only where none is pinned, and then nothing counts as checked.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

from klyra_audit.format import packet, sections
from klyra_audit.format import policy as policies
from klyra_audit.format.control import Export, Key, ShardClose, Start
from klyra_audit.format.errors import FormatError, LeafError, PacketError, PolicyError
from klyra_audit.format.frame import BlobFrame
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.format.packet import Manifest
from klyra_audit.format.packet_lines import ControlLine
from klyra_collector.verify.contents import check_control
from klyra_collector.verify.facts import ControlFacts
from klyra_collector.verify.files import Unreadable
from klyra_collector.verify.findings import Findings
from klyra_collector.verify.packet_coverage import judge_coverage
from klyra_collector.verify.packet_entries import EntriesVerification, RunFacts
from klyra_collector.verify.packet_file import BadArchive, PacketFile
from klyra_collector.verify.packet_run import RunVerification
from klyra_collector.verify.packet_trust import Trust, Untrusted
from klyra_collector.verify.report import Report, ShardReport, Witnessed
from klyra_collector.verify.retention import MICROSECONDS_PER_DAY, SECONDS_PER_DAY, QuorumTimes, Retention
from klyra_collector.verify.verdicts import Finding, Problem, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.format.policy import Opened, Policy
    from klyra_collector.verify.ledger import Options

_ORG_SALT_BYTES: Final = 32
_NUMBERED: Final = "records are numbered by org_seq, their place in the organization's chain of that shard"


def verify_packet(path: Path, options: Options) -> Report:
    """Verify a packet; whatever the file holds, what is wrong with it is a finding.

    Without `options.policy` the packet's own is taken, which shows consistency and no more: pass `require_pinned`.
    """
    findings = Findings(options.limit_findings)
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    runs: list[ShardReport] = []
    notes: list[str] = []
    try:
        with PacketFile(_real(path)) as file:
            verification = PacketVerification(file, options, findings)
            runs, notes = verification.run(), verification.notes
    except BadArchive as error:
        findings.add(Finding(verdict=error.problem.verdict, reason=error.problem.reason, file=name))
    except (Unreadable, FileNotFoundError) as error:
        findings.add(Finding(verdict=Verdict.UNVERIFIABLE, reason=f"it cannot be read: {error}", file=name))
    own = ShardReport(
        directory=name, counts=findings.counts, findings=findings.kept, findings_total=findings.total, notes=notes
    )
    return Report(
        target=os.fsencode(path).decode("utf-8", "backslashreplace"),
        pinned=options.policy is not None,
        require_pinned=options.require_pinned,
        shards=[own, *runs],
    )


def _real(path: Path) -> Path:
    """Follow links that the reader names; those that a packet might hold are never followed."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


class PacketVerification:
    """One run over one packet.

    Attributes:
        notes: what a reader should know.
    """

    def __init__(self, file: PacketFile, options: Options, findings: Findings) -> None:
        self._file = file
        self._options = options
        self._findings = findings
        self.notes: list[str] = [_NUMBERED]

    def run(self) -> list[ShardReport]:
        """Check everything; return what was found in each run."""
        # (1): the archive is open
        manifest = self._read_manifest()
        policy = self._policy()
        if manifest is None or policy is None:
            return []
        # (2): members
        self._check_members(manifest)
        # (3): keys
        trust = Trust(policy)
        closes = self._follow_keys(trust)
        # (4): the record of the export
        org_salt = self._read_org_salt()
        org_ref = sections.organization_reference(org_salt, manifest.organization_id)
        day = self._check_export(manifest, trust, org_ref)
        # (5): runs
        runs = [
            RunVerification(self._file, number, run, org_ref, trust, self._options.limit_findings)
            for number, run in enumerate(manifest.runs)
        ]
        for run in runs:
            run.verify()
        # (6): org_salt, and whether all of the window is here
        is_salt = self._check_org_salt(org_salt, runs)
        for problem, about in judge_coverage(manifest.window, runs, closes, policy):
            self._say(problem, None if about is None else packet.heads_member(about.number))
        # (7), (8): entries and their rendering
        self._check_entries(manifest, runs, trust, org_salt if is_salt else None, day)
        self._note(manifest)
        return [_report(run) for run in runs]

    def _read_manifest(self) -> Manifest | None:
        if packet.MANIFEST not in self._file.names:
            self._say(Problem(Verdict.UNVERIFIABLE, "it has no manifest, so it is no export packet"), packet.MANIFEST)
            return None
        try:
            return Manifest.parse(self._file.small(packet.MANIFEST, packet.SMALL_MEMBER_BYTES))
        except PacketError as error:
            self._say(Problem(Verdict.ALTERED, str(error)), packet.MANIFEST)
            return None

    def _policy(self) -> Policy | None:
        if self._options.policy is not None:
            return self._options.policy
        try:
            return policies.parse(self._file.small(packet.POLICY, policies.MAX_POLICY_BYTES))
        except (PacketError, PolicyError) as error:
            self._say(Problem(Verdict.UNVERIFIABLE, f"no policy is given, and the packet's: {error}"), packet.POLICY)
            return None

    def _check_members(self, manifest: Manifest) -> None:
        needed = _needed(manifest)
        present = self._file.names
        for name in sorted(needed - present):
            verdict = Verdict.TRUNCATED if name.startswith("logs/") else Verdict.MISSING
            self._say(Problem(verdict, "the manifest's runs need it, and it is not here"), name)
        for name in sorted(present - needed):
            self._say(Problem(Verdict.EXTRA, "no packet has such a member"), name)
        stated = manifest.members.keys() | packet.OUTSIDE_MANIFEST
        for name in sorted(stated ^ needed):
            self._say(
                Problem(Verdict.ALTERED, f"the manifest's members differ from its runs in {name}"), packet.MANIFEST
            )
        for name in sorted(needed & present):
            digest = hashlib.sha256()
            is_whole = self._file.hash_into(name, digest)
            expected = manifest.members.get(name)
            if expected is not None and digest.hexdigest() != expected:
                self._say(Problem(Verdict.ALTERED, "its bytes are not those that the manifest names"), name)
            elif not is_whole:
                self._say(Problem(Verdict.ALTERED, "the archive's checksum of it is wrong"), name)

    def _follow_keys(self, trust: Trust) -> dict[str, tuple[int, Leaf, ShardClose]]:
        """Let trust go along the lineage; return the record that closed each shard, by origin."""
        closes: dict[str, tuple[int, Leaf, ShardClose]] = {}
        try:
            for encoded in self._file.lines(packet.LINEAGE, packet.LINE_BYTES):
                line = ControlLine.parse(encoded)
                leaf = Leaf.unpack(line.leaf)
                judgement = check_control(BlobFrame(line.index, line.document), leaf)
                if judgement.problem is not None or judgement.document is None or line.proof is None:
                    raise PacketError(f"record {line.index} of {line.log} is not what its leaf commits to")
                document = judgement.document
                try:
                    index, _ = trust.index_of(line.leaf, line.proof, line.log)
                except Untrusted as error:
                    if error.problem.verdict is Verdict.BAD_SIGNATURE:
                        continue  # of a shard older than what is pinned: it vouches for nothing
                    raise PacketError(f"record {line.index} of {line.log}: {error}") from error
                if index != line.index:
                    raise PacketError(f"record {line.index} of {line.log} is proved to be record {index}")
                trust.follow(line.log, document)
                if isinstance(document, ShardClose):
                    closes[line.log] = index, leaf, document
        except FormatError as error:
            self._say(Problem(Verdict.CONTROL_ALTERED, str(error)), packet.LINEAGE)
        return closes

    def _read_org_salt(self) -> bytes:
        given = self._options.org_salt
        if given is not None:
            return given
        try:
            return self._file.small(packet.ORG_SALT, _ORG_SALT_BYTES)
        except PacketError:
            return b""

    def _check_export(self, manifest: Manifest, trust: Trust, org_ref: bytes) -> int:
        """Check the record of this very packet; return the UTC day on which it was sealed, as far as it is proved."""
        encoded = self._file.small(packet.MANIFEST, packet.SMALL_MEMBER_BYTES)
        commit = sections.control_commit(Export(hashlib.sha256(encoded).digest()).encode())
        try:
            leaf_bytes = self._file.small(packet.EXPORT_LEAF, packet.SMALL_MEMBER_BYTES)
            proof = self._file.small(packet.EXPORT_PROOF, packet.SMALL_MEMBER_BYTES)
            leaf = Leaf.unpack(leaf_bytes)
        except (PacketError, LeafError) as error:
            self._say(Problem(Verdict.UNVERIFIABLE, f"its export was not recorded, or not like this: {error}"), None)
            return 0
        if leaf.kind != Kind.EXPORT or leaf.commit != commit:
            reason = "it is not the manifest that was recorded when the packet was made"
            self._say(Problem(Verdict.ALTERED, reason), packet.MANIFEST)
        if leaf.org_ref != org_ref:
            self._say(Problem(Verdict.ORG_CHAIN, "it is recorded for another organization"), packet.EXPORT_LEAF)
        newest = manifest.runs[-1].origin if manifest.runs else ""
        try:
            _, opened = trust.index_of(leaf_bytes, proof, newest)
        except Untrusted as error:
            self._say(error.problem, packet.EXPORT_PROOF)
            return 0
        if not opened.quorum_met:
            reason = "the checkpoint it is proved by lacks the cosignatures that the policy asks for"
            self._say(Problem(Verdict.STALE_WITNESS, reason), packet.EXPORT_PROOF)
        self._findings.count(Verdict.OK, 1)
        return _proved_day(leaf, opened, trust)

    def _check_org_salt(self, org_salt: bytes, runs: list[RunVerification]) -> bool:
        digest = hashlib.sha256(org_salt).digest()
        starts = [
            proved.document for run in runs for proved in run.state.controls if isinstance(proved.document, Start)
        ]
        if not starts:
            reason = "no START record is here to check org_salt with"
        elif any(start.org_salt_sha256 != digest for start in starts):
            reason = "org_salt is not the one that START commits to"
        else:
            return True
        self._say(Problem(Verdict.ORG_CHAIN if starts else Verdict.UNVERIFIABLE, reason), packet.ORG_SALT)
        return False

    def _check_entries(
        self, manifest: Manifest, runs: list[RunVerification], trust: Trust, org_salt: bytes | None, day: int
    ) -> None:
        facts = ControlFacts()
        for run in runs:
            run.note_facts(facts)
        quorum = QuorumTimes(trust.cosigned) if trust.policy.needs_witnesses else None
        judged = [RunFacts(run, Retention(facts, run.run.origin, quorum=quorum), _keys(run)) for run in runs]
        entries = EntriesVerification(self._file, manifest, judged, org_salt=org_salt, day=day, findings=self._findings)
        name = packet.ENTRIES
        entries.verify(lambda done, total: self._options.progress(name, "entries", done, total))
        records = sum(run.count for run in runs)
        if manifest.counts.records != records:
            reason = f"it says {manifest.counts.records} leaves, and there are {records}"
            self._say(Problem(Verdict.TRUNCATED, reason), packet.MANIFEST)

    def _note(self, manifest: Manifest) -> None:
        if not manifest.complete:
            self.notes.append(
                "the packet was made with filters: its entries are what was sealed, and others may exist besides"
            )

    def _say(self, problem: Problem, file: str | None) -> None:
        self._findings.add(Finding(verdict=problem.verdict, reason=problem.reason, file=file))


def _needed(manifest: Manifest) -> frozenset[str]:
    """Return the names of the members that a packet of these runs has."""
    names = {packet.POLICY, packet.ORG_SALT, packet.ENTRIES, manifest.rendering, packet.LINEAGE}
    for number, run in enumerate(manifest.runs):
        names |= {packet.leaves_member(number), packet.heads_member(number), packet.control_member(number)}
        if run.count:
            names.add(packet.proof_member(number))
    return frozenset(names) | packet.OUTSIDE_MANIFEST


def _proved_day(leaf: Leaf, opened: Opened, trust: Trust) -> int:
    """Return the day of the export: by the collector's clock, and by the witnesses' where some are asked for."""
    day = leaf.ingest_us // MICROSECONDS_PER_DAY
    if not trust.policy.needs_witnesses:
        return day
    return min(day, (opened.quorum_time or 0) // SECONDS_PER_DAY)


def _keys(run: RunVerification) -> list[Key]:
    return [proved.document for proved in run.state.controls if isinstance(proved.document, Key)]


def _report(run: RunVerification) -> ShardReport:
    state, findings = run.state, run.findings
    # With the HEADS record, which is there even for an organization without any.
    findings.count(Verdict.OK, run.flagged.count(0) + (state.heads is not None))
    opened = state.opened
    return ShardReport(
        directory=f"logs/{run.number}",
        origin=run.run.origin,
        size=None if opened is None else opened.checkpoint.size,
        root=None if opened is None else opened.checkpoint.root,
        key=None if opened is None else str(opened.key),
        witnessed=None
        if opened is None or not opened.quorum_time
        else Witnessed(opened.checkpoint.size, opened.quorum_time),
        first_us=state.first_us,
        last_us=state.last_us,
        counts=findings.counts,
        findings=findings.kept,
        findings_total=findings.total,
    )
