"""Verify one shard of a ledger, in numbered steps; `whole.py` runs it over all shards and joins them.

The order is the reverse of the writer's, so that a running collector never looks like a broken ledger: what was
read first was made durable last. Steps 1 to 6 of every shard come before step 7 of any, since records of a later shard
decide about bodies of an earlier one.

(1)  Read how many records the collector speaks of, then the heads it signed: `checkpoints/`, `state/witnessed`,
     `checkpoint`, `state/last-signed`.
(2)  Check their signatures with the pinned keys, else with those that the ledger names itself, and with those that
     either has vouched for; check witnesses' cosignatures; choose the newest.
(3)  Read the leaves: whole multiples of 112 bytes, at least as many as were signed.
(4)  Recompute the root. Where it is not the signed one, find out from `hashes/<L>` which leaves differ.
(5)  Compare `hashes/<L>`, the kept and the witnessed heads with the tree.
(6)  Check every control document against its leaf, and org_salt against START.
(7)  Follow the leaves: known version, kind and flags; time; each organization's chain; the plan's days; HEADS; the
     emitters' sequences.
(8)  Compare the leaves' times with those of the witnesses.
(9)  Check every body against its leaf: commitments, sections, organization, the emitter's signature.
(10) Check quarantined bytes against the bodies that speak of them.
(11) See that every leaf has its content, unless it expired, what the damaged places held, and that what should be
     gone or erased is.
(12) Judge what lies behind the end.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format.control import Expiry, Extend, Hold
from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.merkle import HASH_SIZE
from klyra_collector.verify import files, tiles, witnesses
from klyra_collector.verify.expiries import BodyLife
from klyra_collector.verify.files import Unreadable, open_if_readable, open_or_empty
from klyra_collector.verify.filing import Leaves, ShardControls, Told
from klyra_collector.verify.findings import Findings, Marks
from klyra_collector.verify.hashes import HashChecker, check_kept
from klyra_collector.verify.heads import HeadReader, Heads, is_interrupted, read_committed
from klyra_collector.verify.inventory import Inventory
from klyra_collector.verify.report import ShardReport, UnsignedTail, Witnessed
from klyra_collector.verify.retention import Retention
from klyra_collector.verify.scan import ChainResult, ChainTask, LeafReader, known_leaf, scan_chain
from klyra_collector.verify.tail import Tail, leaves_behind
from klyra_collector.verify.tree import Extent, Tree, TreeReader
from klyra_collector.verify.verdicts import Finding, Problem, Verdict, about

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from klyra_audit.format.leaf import Leaf
    from klyra_audit.format.policy import Policy
    from klyra_collector.verify.alignment import Segment
    from klyra_collector.verify.emitters import EmitterKeys
    from klyra_collector.verify.facts import ControlFacts, Sealed
    from klyra_collector.verify.keyring import KeyRing
    from klyra_collector.verify.layout import ShardFolder
    from klyra_collector.verify.retention import QuorumTimes
    from klyra_collector.verify.work import Crew

ORG_SALT_BYTES: Final = 32
MAX_UNSIGNED: Final = 1_000_000  # a collector signs every second; more than this is no tail
MAX_UNSIGNED_SECONDS: Final = 60
MAX_UNSIGNED_RECORDS: Final = 65_536
SETTLING_US: Final = 600_000_000  # so long a running collector may take to delete what it has said it would

_GIVE_POLICY: Final = "Give the operator's policy file with --policy."
_LONG_TAIL: Final = (
    "let the collector sign, and verify again; if it does sign, look for a newer head of this shard: at the witnesses, "
    "in copies, in receipts (--expect-checkpoint)"
)
_GIVE_SALT: Final = "Give the ledger's org_salt with --org-salt; the operator hands it out with packets."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to verify.

    Attributes:
        policy: the pinned keys and witnesses; None checks consistency only.
        org_salt: 32 bytes; None takes `keys/org-salt` of the data directory.
        require_pinned: without pinned keys nothing counts as checked.
        limit_findings: how many findings a shard's report describes; all are counted.
        processes: how many share the work; 1 does it here.
        patience: seconds to wait for a running collector to finish what it is writing.
        now_us: the present, microseconds since 1970; None takes this machine's clock for how old the witnesses' newest
            cosignature is, and the time of the newest record and cosignature for what is due.
        max_witness_age: seconds since the policy's quorum has cosigned a head, at most.
        expect_size: how many signed records there must be in all shards, at least.
        expect_after_us: ingest time that the newest record must have or be behind.
        expect_checkpoint: file and bytes of a signed head that the reader has kept.
        bodies: whether the bodies are here to be verified; steps 9 to 11 are left out where they are not.
        progress: called with a shard's directory, a step's name, and how much of it is done.
        sleep: to wait with.
    """

    policy: Policy | None = None
    org_salt: bytes | None = None
    require_pinned: bool = False
    limit_findings: int = 100
    processes: int = 1
    patience: float = 2.0
    now_us: int | None = None
    max_witness_age: float = 86_400.0
    expect_size: int | None = None
    expect_after_us: int | None = None
    expect_checkpoint: tuple[Path, bytes] | None = None
    bodies: bool = True
    progress: Callable[[str, str, int, int], None] = lambda _shard, _step, _done, _total: None
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a shard is judged by that stands in other shards, or outside.

    Attributes:
        facts: of all shards.
        quorum: see `Retention`.
        day: the newest UTC day that can be trusted to have begun.
        keys: of the emitters.
    """

    facts: ControlFacts
    quorum: QuorumTimes | None
    day: int
    keys: EmitterKeys


class ShardVerification:
    """One run over one shard: `read`, then `check`, then `report`.

    Attributes:
        log: origin of the shard; without a head, its directory.
        heads: what was signed for it.
        extent: how much of it is looked at.
        chains: what following its leaves has shown; empty before `check`.
        retention: judges its bodies; None before `check`.
    """

    def __init__(self, folder: ShardFolder, options: Options, crew: Crew, number: int) -> None:
        self.folder = folder
        self.number = number
        self.log = folder.name(folder.root)
        self.heads = Heads()
        self.extent = Extent(0, 0, 0)
        self.chains = ChainResult()
        self.retention: Retention | None = None
        self.findings = Findings(options.limit_findings)
        self.notes: list[str] = []
        self._options = options
        self._crew = crew
        self._committed: int | None = None
        self._length = 0
        self._tail = UnsignedTail()
        self._parts: _Parts | None = None
        self._org_salt: bytes | None = None
        self._life: BodyLife | None = None

    @property
    def leaves(self) -> Leaves | None:
        """Where its leaves are, and which of them can be trusted; None for a shard that cannot be read."""
        return None if self._parts is None else self._parts.leaves

    @property
    def org_salt(self) -> bytes | None:
        """The salt behind every org_ref, if it is the one that START commits to; known after `check`."""
        return self._org_salt

    @property
    def is_complete(self) -> bool:
        """Whether every record up to the end has a leaf that can be trusted, and every control record its document."""
        parts = self._parts
        if parts is None or not parts.inventory.controls_are_whole:
            return False
        return not parts.tree.skipped and _covers(parts.tree.segments, self.extent.size)

    @property
    def is_interrupted(self) -> bool:
        """Whether a collector runs here, or did not stop cleanly."""
        return is_interrupted(self.folder)

    @property
    def last_us(self) -> int:
        """Ingest time of the newest record that can be trusted, 0 without any."""
        leaf = self.leaf(self.extent.size - 1)
        return 0 if leaf is None else leaf.ingest_us

    def leaf(self, index: int) -> Leaf | None:
        """Return a leaf that can be trusted and understood."""
        if self._parts is None or index < 0:
            return None
        with open_or_empty(self.folder.leaves) as file:
            return known_leaf(LeafReader(file, self._parts.tree.segments).at(index))

    def root_at(self, size: int) -> bytes | None:
        """Return the root of the first `size` records, None where they are not all here."""
        if self._parts is None:
            return None
        tree, reader = self._parts.tree, self._parts.reader
        (root,) = tiles.roots_at([size], tree.account.tiles, lambda number: reader.leaf_hashes_of(tree, number))
        return root

    def read(self, ring: KeyRing, facts: ControlFacts) -> None:
        """Do steps 1 to 6; what the control documents say is added to `facts`."""
        # (1), (2): what was signed
        self._committed = read_committed(self.folder)
        self.heads = self._read_heads(ring)
        if self.heads.newest is not None:
            self.log = self.heads.newest.checkpoint.origin
        # (3): how many leaves there are
        try:
            self.extent, self._length = self._measure(self.heads, self._committed)
        except Unreadable as error:
            self.say(Verdict.UNVERIFIABLE, f"it cannot be read: {error}", self.folder.leaves)
            return
        # (4), (5): whether they lead to the signed root
        reader = TreeReader(self.folder, self.extent, self._crew, self._progress("leaves"))
        tree = self._check_tree(reader)
        # (6): control documents
        marks = self._mark(tree, self.extent)
        leaves = Leaves(self.folder.leaves, tree.segments, self.extent.size)
        inventory = Inventory(self.folder, leaves, marks, self.findings, self.extent.leaves)
        controls = ShardControls(self.log, facts, tree.vouched)
        inventory.check_control(controls)
        self._parts = _Parts(tree, reader, marks, leaves, inventory, controls)

    def check(self, around: Around) -> None:
        """Do steps 7 to 12, when the records of all shards are known."""
        if self._parts is None:
            return
        parts = self._parts
        settled = self.last_us - SETTLING_US if self.is_interrupted else None
        self.retention = Retention(around.facts, self.log, quorum=around.quorum, settled_us=settled)
        told = self._told(around)
        self._org_salt = told.org_salt
        # (7), (8), (9), (10): chains, bodies and quarantined bytes, side by side
        chains = self._crew.begin(scan_chain, self._chain_task(parts))
        if self._options.bodies:
            parts.inventory.check_bodies(told, self.retention, self._crew, self._progress("bodies"))
        self.chains = self._take_chains(chains.result(), parts.marks)
        self._check_witnessed_times()
        # (11): what has no content, or should have none
        if self._options.bodies:
            self._life = BodyLife(self.retention, parts.marks, around.day, self._complain_of_body)
            parts.inventory.check_presence(self._life)
            self._note_quarantine(parts.inventory)
        else:
            parts.inventory.check_controls_presence()
        # (12): what lies behind the end
        self._tail = self._judge_tail(parts, self._length)
        self._check_long_tail(parts.tree.end)

    def wrong_expiries(self) -> Iterator[tuple[Sealed[Expiry], str]]:
        """Yield the EXPIRY records, in whatever shard, that do not say what this shard's leaves say."""
        if self._life is not None:
            yield from self._life.wrong_expiries()

    def complain(self, verdict: Verdict, index: int, reason: str, *, last: int | None = None) -> None:
        """Add a finding about one of its records, or about a range of them."""
        last = index if last is None else last
        finding = Finding(
            verdict=verdict,
            reason=reason,
            first=index,
            last=last,
            file=self.folder.name(self.folder.leaves),
            offset=index * LEAF_SIZE,
            count=last - index + 1,
        )
        self.findings.add(finding)
        if self._parts is not None:
            self._parts.marks.flag(index, last)

    def say(self, verdict: Verdict, reason: str, path: Path | None, remedy: str | None = None) -> None:
        """Add a finding about one of its files."""
        name = None if path is None else self.folder.name(path)
        self.findings.add(Finding(verdict=verdict, reason=reason, file=name, remedy=remedy))

    def report(self) -> ShardReport:
        """Return what was found."""
        if self._parts is not None:
            counted = self._parts.marks.unflagged(min(self._parts.tree.vouched, self.extent.size))
            self.findings.count(Verdict.OK, counted)
        for verdict, count in (self._life.counts if self._life else {}).items():
            self.findings.count(verdict, count)
        newest, key = self.heads.newest, self.heads.key
        seen = witnesses.newest_cosigned(self.heads)
        return ShardReport(
            directory=self.folder.name(self.folder.root),
            origin=newest.checkpoint.origin if newest else None,
            size=newest.checkpoint.size if newest else None,
            root=newest.checkpoint.root if newest else None,
            checkpoint=newest.encoded.decode() if newest else None,
            key=str(key) if key else None,
            witnessed=Witnessed(seen.checkpoint.size, seen.quorum_time or 0) if seen else None,
            first_us=self.chains.first_us,
            last_us=self.chains.last_us,
            counts=self.findings.counts,
            findings=self.findings.kept,
            findings_total=self.findings.total,
            unsigned_tail=self._tail,
            notes=self.notes,
        )

    def _read_heads(self, ring: KeyRing) -> Heads:
        heads = Heads()
        if ring.known:
            heads = HeadReader(
                self.folder,
                ring,
                policy=self._options.policy,
                brought=self._brought(),
                patience=self._options.patience,
                sleep=self._options.sleep,
            ).read()
        else:
            self.say(Verdict.UNVERIFIABLE, "there is no key to check it with", self.folder.checkpoint, _GIVE_POLICY)
        for finding in heads.findings:
            self.findings.add(finding)
        self.notes += heads.notes
        if ring.known and heads.newest is None and not heads.findings:
            self.say(Verdict.UNVERIFIABLE, "nothing is signed yet", self.folder.checkpoint)
        if heads.newest is not None and not heads.newest.checkpoint.size:
            self.say(Verdict.UNVERIFIABLE, "it is the head of an empty ledger", heads.newest.path)
        return heads

    def _brought(self) -> dict[Path, bytes]:
        """Return the head that the reader has kept, if it is one of this shard."""
        expected = self._options.expect_checkpoint
        if expected is None or head_shard(expected[1]) != self.folder.root.name:
            return {}
        return dict([expected])

    def _measure(self, heads: Heads, committed: int | None) -> tuple[Extent, int]:
        """Return how much there is to look at, and the length of the file of leaves in bytes.

        Memory is taken for each record that is looked at, so no more are than bytes on disk speak of, whatever a head
        or the size of a sparse file claims.
        """
        with open_or_empty(self.folder.leaves) as file:
            length = file.dense_size
            if length < file.size:
                reason = f"it is sparse: behind byte {length} it has a hole, which no collector leaves"
                self.say(Verdict.UNVERIFIABLE, f"{reason}; nothing behind it was looked at", self.folder.leaves)
        with open_if_readable(self.folder.hashes(0)) as file:
            reach = max(length // LEAF_SIZE, file.dense_size // HASH_SIZE)
        leaves = length // LEAF_SIZE
        unsigned = leaves if committed is None else min(committed, leaves)
        if heads.newest is None:
            return Extent(unsigned, unsigned, leaves), length
        signed = heads.newest.checkpoint.size
        beyond = 0 if committed is None else min(unsigned, signed + MAX_UNSIGNED)
        if committed is not None and committed > max(leaves, signed):
            self._say_cut(max(leaves, signed), committed)
        return Extent(signed, min(max(signed, beyond), reach), leaves), length

    def _say_cut(self, first: int, committed: int) -> None:
        """Say that records are gone which the collector has acknowledged, if not signed."""
        self.findings.add(
            Finding(
                verdict=Verdict.TRUNCATED,
                reason=f"state/committed speaks of {committed} records, and there are leaves for {first}",
                first=first,
                last=committed - 1,
                file=self.folder.name(self.folder.leaves),
                count=committed - first,
            )
        )

    def _check_tree(self, reader: TreeReader) -> Tree:
        heads, extent = self.heads, self.extent
        kept = [head.checkpoint for head in heads.kept]
        tree = reader.read(heads.newest.checkpoint if heads.newest else None, kept)
        findings = list(tree.findings)
        checker = HashChecker(self.folder, extent, tree, reader)
        if tree.vouched == extent.signed:
            findings += check_kept(self.folder, tree, reader, heads.kept)
            findings += checker.check()
        with open_or_empty(self.folder.leaves) as file:
            now = file.size // LEAF_SIZE
        findings += checker.check_lengths(now, interrupted=self.is_interrupted)
        for finding in findings:
            self.findings.add(finding)
        return tree

    def _mark(self, tree: Tree, extent: Extent) -> Marks:
        marks = Marks(extent.size)
        for finding in tree.findings:
            if finding.first is not None and finding.last is not None:
                marks.flag(finding.first, finding.last)
        return marks

    def _told(self, around: Around) -> Told:
        """Return what the bodies are checked by."""
        extends = [sealed for sealed in around.facts.of(Extend) if (sealed.document.log or sealed.log) == self.log]
        documents = [sealed.document for sealed in extends]
        expiries = [sealed for sealed in around.facts.of(Expiry) if (sealed.document.log or sealed.log) == self.log]
        return Told(
            org_salt=self._find_org_salt({} if self._parts is None else self._parts.controls.starts),
            shard=self.number,
            keys=around.keys,
            extended=tuple((each.org_ref, each.first_seq, each.last_seq, each.retention_days) for each in documents),
            held=frozenset(sealed.document.org_ref for sealed in around.facts.of(Hold)),
            swept_day=max((sealed.document.cutoff_day for sealed in expiries), default=-1),
        )

    def _find_org_salt(self, starts: Mapping[int, bytes]) -> bytes | None:
        """Return the salt that START commits to; without it no organization can be checked."""
        org_salt = self._options.org_salt or self._read_org_salt()
        if org_salt is None:
            reason = "there is no org_salt, so that no record's organization can be checked"
        elif not starts:
            reason = "there is no START record to check org_salt with"
        else:
            digest = hashlib.sha256(org_salt).digest()
            wrong = next((index for index, expected in sorted(starts.items()) if expected != digest), None)
            if wrong is None:
                return org_salt
            reason = f"the org_salt is not the one that START, record {wrong}, commits to"
        self.say(Verdict.UNVERIFIABLE, reason, self.folder.org_salt, _GIVE_SALT)
        if self._parts is not None:
            self._parts.marks.flag(0, self._parts.marks.size - 1)
        return None

    def _read_org_salt(self) -> bytes | None:
        path = self.folder.org_salt
        if path is None:
            return None
        try:
            return files.read_small(path, ORG_SALT_BYTES)
        except (FileNotFoundError, Unreadable):
            return None

    def _chain_task(self, parts: _Parts) -> ChainTask:
        return ChainTask(
            leaves=self.folder.leaves,
            segments=parts.tree.segments,
            skipped=tuple(sorted(parts.tree.skipped)),
            policies=parts.controls.policies,
            heads=parts.controls.heads,
            keep=self._options.limit_findings,
        )

    def _check_witnessed_times(self) -> None:
        """Find records that were sealed, by the collector's clock, after somebody had cosigned them."""
        for head in self.heads.seen:
            limit_us = (min(head.cosigned.values()) + witnesses.CLOCK_SECONDS) * 1_000_000
            last = min(head.checkpoint.size, self.extent.size) - 1
            leaf = self.leaf(last)
            if leaf is not None and leaf.ingest_us > limit_us:
                first = bisect_left(range(last), limit_us + 1, key=self._ingest_us)
                seconds = leaf.ingest_us // 1_000_000 - min(head.cosigned.values())
                reason = f"it says it was sealed {seconds} s after {head.path.name} was cosigned, which covers it"
                self.complain(Verdict.CLOCK, first, reason, last=last)
                return

    def _ingest_us(self, index: int) -> int:
        leaf = self.leaf(index)
        return 0 if leaf is None else leaf.ingest_us

    def _complain_of_body(self, index: int, problem: Problem) -> None:
        self.complain(problem.verdict, index, problem.reason)

    def _take_chains(self, result: ChainResult, marks: Marks) -> ChainResult:
        name = self.folder.name(self.folder.leaves)
        for index, problem in result.problems:
            result.counts[problem.verdict] -= 1
            self.findings.add(about(problem.verdict, index, problem.reason, file=name, offset=index * LEAF_SIZE))
        for verdict, count in result.counts.items():
            self.findings.count(verdict, count)
        marks.flag_each(result.flagged)
        return result

    def _note_quarantine(self, inventory: Inventory) -> None:
        if inventory.unchecked_quarantine:
            self.notes.append(
                f"the bytes of {inventory.unchecked_quarantine} quarantined records are not beside this ledger, "
                "and were not checked"
            )

    def _judge_tail(self, parts: _Parts, length: int) -> UnsignedTail:
        extent, end = self.extent, parts.tree.end
        tail = Tail(self.folder, extent.leaves, self._options.patience, self._options.sleep)
        behind = leaves_behind(self.folder, end, self._committed, extent.leaves, length)
        for finding in tail.judge([*behind, *parts.inventory.leftovers]):
            self.findings.add(finding)
        return UnsignedTail(
            records=max(extent.leaves - end, 0),
            checked=max(extent.size - extent.signed, 0),
            unfinished=tail.tolerated,
        )

    def _check_long_tail(self, end: int) -> None:
        """Find records that have gone unsigned for longer than a running collector lets them.

        Nothing vouches for them, not even for their times: that they are few and young says nothing, that they are
        many or old is reason enough to trust none of them.

        Args:
            end: position in the file behind the last signed leaf.
        """
        count = self._tail.records
        if self.heads.newest is None or not count:
            return
        seconds = self._unsigned_seconds(end, min(count, MAX_UNSIGNED_RECORDS))
        if count <= MAX_UNSIGNED_RECORDS and seconds <= MAX_UNSIGNED_SECONDS:
            return
        reason = (
            f"{count} records behind the newest head, sealed over {seconds} s, are signed by nobody, and a collector "
            "signs every second: older heads were put in place of newer ones and all that came later may be rewritten; "
            "or the collector's signer has failed for so long, which gives the same picture"
        )
        first, file = self.extent.signed, self.folder.name(self.folder.leaves)
        self.findings.add(
            Finding(
                verdict=Verdict.UNVERIFIABLE,
                reason=reason,
                first=first,
                last=first + count - 1,
                file=file,
                offset=end * LEAF_SIZE,
                count=count,
                remedy=_LONG_TAIL,
            )
        )

    def _unsigned_seconds(self, end: int, count: int) -> int:
        """Return the span of the ingest times that unsigned leaves show."""
        with open_or_empty(self.folder.leaves) as file:
            encoded = file.read(end * LEAF_SIZE, count * LEAF_SIZE)
        leaves = (known_leaf(encoded[at : at + LEAF_SIZE]) for at in range(0, len(encoded), LEAF_SIZE))
        times = [leaf.ingest_us for leaf in leaves if leaf is not None]
        return (max(times) - min(times)) // 1_000_000 if times else 0

    def _progress(self, step: str) -> Callable[[int, int], None]:
        name = self.folder.root.name
        return lambda done, total: self._options.progress(name, step, done, total)


class _Parts(NamedTuple):
    """What `read` has found out and `check` goes on with."""

    tree: Tree
    reader: TreeReader
    marks: Marks
    leaves: Leaves
    inventory: Inventory
    controls: ShardControls


def head_shard(encoded: bytes) -> str:
    """Return the shard that a signed head says it is of; nothing of it is checked."""
    return encoded.partition(b"\n")[0].decode("utf-8", "replace").rpartition("/")[2]


def _covers(segments: Sequence[Segment], size: int) -> bool:
    """Say whether segments have every index below a size."""
    reached = 0
    for segment in segments:
        if segment.index > reached:
            return False
        reached = max(reached, segment.index + segment.count)
    return reached >= size
