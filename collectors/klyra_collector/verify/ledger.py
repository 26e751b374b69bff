"""Verify one shard of a ledger, in numbered steps.

The order is the reverse of the writer's, so that a running collector never looks like a broken ledger: what was
read first was made durable last.

(1)  Read how many records the collector speaks of, then the heads it signed: `checkpoint`, `state/last-signed`,
     `checkpoints/`.
(2)  Check their signatures with the pinned keys, else with those that the ledger names itself; choose the newest.
(3)  Read the leaves: whole multiples of 112 bytes, at least as many as were signed.
(4)  Recompute the root. Where it is not the signed one, find out from `hashes/<L>` which leaves differ.
(5)  Compare `hashes/<L>` and the kept heads with the tree.
(6)  Check every control document against its leaf, and org_salt against START.
(7)  Follow the leaves: known version, kind and flags; time; each organization's chain; the plan's days.
(8)  Check every body against its leaf: commitments, sections, organization.
(9)  Check quarantined bytes against the bodies that speak of them.
(10) See that every leaf has its content, and what the damaged places held.
(11) Judge what lies behind the end.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.merkle import HASH_SIZE
from klyra_collector.verify import files
from klyra_collector.verify.files import Unreadable, open_if_readable, open_or_empty
from klyra_collector.verify.filing import Leaves
from klyra_collector.verify.findings import Findings, Marks
from klyra_collector.verify.hashes import HashChecker, check_kept
from klyra_collector.verify.heads import HeadReader, Heads, find_keys, is_interrupted, read_committed
from klyra_collector.verify.inventory import Inventory
from klyra_collector.verify.policy import NO_QUORUM
from klyra_collector.verify.report import ShardReport, UnsignedTail
from klyra_collector.verify.scan import ChainResult, ChainTask, LeafReader, known_leaf, scan_chain
from klyra_collector.verify.tail import Tail, leaves_behind
from klyra_collector.verify.tree import Extent, Tree, TreeReader
from klyra_collector.verify.verdicts import Finding, Verdict, about

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klyra_collector.verify.contents import ControlFacts
    from klyra_collector.verify.layout import ShardFolder
    from klyra_collector.verify.policy import Policy
    from klyra_collector.verify.work import Crew

ORG_SALT_BYTES: Final = 32
MAX_UNSIGNED: Final = 1_000_000  # a collector signs every second; more than this is no tail
MAX_UNSIGNED_SECONDS: Final = 60

_GIVE_POLICY: Final = "Give the operator's policy file with --policy."
_GIVE_SALT: Final = "Give the ledger's org_salt with --org-salt; the operator hands it out with packets."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to verify.

    Attributes:
        policy: the pinned keys; None checks consistency only.
        org_salt: 32 bytes; None takes `keys/org-salt` of the data directory.
        require_pinned: without pinned keys nothing counts as checked.
        limit_findings: how many findings a shard's report describes; all are counted.
        processes: how many share the work; 1 does it here.
        patience: seconds to wait for a running collector to finish what it is writing.
        progress: called with a shard's directory, a step's name, and how much of it is done.
        sleep: to wait with.
    """

    policy: Policy | None = None
    org_salt: bytes | None = None
    require_pinned: bool = False
    limit_findings: int = 100
    processes: int = 1
    patience: float = 2.0
    progress: Callable[[str, str, int, int], None] = lambda _shard, _step, _done, _total: None
    sleep: Callable[[float], None] = time.sleep


class ShardVerification:
    """One run over one shard."""

    def __init__(self, folder: ShardFolder, options: Options, crew: Crew) -> None:
        self._folder = folder
        self._options = options
        self._crew = crew
        self._findings = Findings(options.limit_findings)
        self._notes: list[str] = []

    def run(self) -> ShardReport:
        """Return what was found."""
        # (1), (2): what was signed
        committed = read_committed(self._folder)
        heads = self._read_heads()
        # (3): how many leaves there are
        try:
            extent, length = self._measure(heads, committed)
        except Unreadable as error:
            self._say(Verdict.UNVERIFIABLE, f"it cannot be read: {error}", self._folder.leaves)
            return self._report(heads, ChainResult(), UnsignedTail())
        # (4), (5): whether they lead to the signed root
        tree = self._check_tree(heads, extent)
        # (6): control documents
        marks = self._mark(tree, extent)
        leaves = Leaves(self._folder.leaves, tree.segments, extent.size)
        inventory = Inventory(self._folder, leaves, marks, self._findings, extent.leaves)
        facts = inventory.check_control()
        org_salt = self._find_org_salt(facts, marks)
        # (7), (8), (9): chains, bodies and quarantined bytes, side by side
        chains = self._crew.begin(scan_chain, self._chain_task(tree, facts))
        inventory.check_bodies(inventory.body_tasks(org_salt), self._crew, self._progress("bodies"))
        followed = self._take_chains(chains.result(), marks)
        # (10): what has no content
        inventory.check_presence()
        self._note_quarantine(inventory)
        # (11): what lies behind the end
        tail = self._judge_tail(inventory, tree, extent, committed, length)
        self._note_old_tail(leaves, extent, followed)
        self._findings.count(Verdict.OK, marks.unflagged(min(tree.vouched, extent.size)))
        return self._report(heads, followed, tail)

    def _read_heads(self) -> Heads:
        policy = self._options.policy
        keys, findings = find_keys(self._folder, policy)
        if policy is not None and policy.quorum != NO_QUORUM:
            reason = f"the policy asks for cosignatures of {policy.quorum}, which this verifier does not check yet"
            self._say(Verdict.UNVERIFIABLE, reason, self._folder.checkpoint)
        heads = Heads()
        if keys:
            heads = HeadReader(self._folder, keys, self._options.patience, self._options.sleep).read()
        else:
            self._say(Verdict.UNVERIFIABLE, "there is no key to check it with", self._folder.checkpoint, _GIVE_POLICY)
        for finding in (*findings, *heads.findings):
            self._findings.add(finding)
        self._notes += heads.notes
        if keys and heads.newest is None and not heads.findings:
            self._say(Verdict.UNVERIFIABLE, "nothing is signed yet", self._folder.checkpoint)
        if heads.newest is not None and not heads.newest.checkpoint.size:
            self._say(Verdict.UNVERIFIABLE, "it is the head of an empty ledger", heads.newest.path)
        return heads

    def _measure(self, heads: Heads, committed: int | None) -> tuple[Extent, int]:
        """Return how much there is to look at, and the length of the file of leaves in bytes."""
        with open_or_empty(self._folder.leaves) as file:
            length = file.size
        with open_if_readable(self._folder.hashes(0)) as file:
            reach = max(length // LEAF_SIZE, file.size // HASH_SIZE)
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
        self._findings.add(
            Finding(
                verdict=Verdict.TRUNCATED,
                reason=f"state/committed speaks of {committed} records, and there are leaves for {first}",
                first=first,
                last=committed - 1,
                file=self._folder.name(self._folder.leaves),
                count=committed - first,
            )
        )

    def _check_tree(self, heads: Heads, extent: Extent) -> Tree:
        reader = TreeReader(self._folder, extent, self._crew, self._progress("leaves"))
        kept = [head.checkpoint for head in heads.kept]
        tree = reader.read(heads.newest.checkpoint if heads.newest else None, kept)
        findings = list(tree.findings)
        checker = HashChecker(self._folder, extent, tree, reader)
        if tree.vouched == extent.signed:
            findings += check_kept(self._folder, tree, reader, heads.kept)
            findings += checker.check()
        with open_or_empty(self._folder.leaves) as file:
            now = file.size // LEAF_SIZE
        findings += checker.check_lengths(now, interrupted=is_interrupted(self._folder))
        for finding in findings:
            self._findings.add(finding)
        return tree

    def _mark(self, tree: Tree, extent: Extent) -> Marks:
        marks = Marks(extent.size)
        for finding in tree.findings:
            if finding.first is not None and finding.last is not None:
                marks.flag(finding.first, finding.last)
        return marks

    def _find_org_salt(self, facts: ControlFacts, marks: Marks) -> bytes | None:
        """Return the salt that START commits to; without it no organization can be checked."""
        org_salt = self._options.org_salt or self._read_org_salt()
        if org_salt is None:
            reason = "there is no org_salt, so that no record's organization can be checked"
        elif not facts.starts:
            reason = "there is no START record to check org_salt with"
        else:
            digest = hashlib.sha256(org_salt).digest()
            wrong = next((index for index, expected in sorted(facts.starts.items()) if expected != digest), None)
            if wrong is None:
                return org_salt
            reason = f"the org_salt is not the one that START, record {wrong}, commits to"
        self._say(Verdict.UNVERIFIABLE, reason, self._folder.org_salt, _GIVE_SALT)
        marks.flag(0, marks.size - 1)
        return None

    def _read_org_salt(self) -> bytes | None:
        path = self._folder.org_salt
        if path is None:
            return None
        try:
            return files.read_small(path, ORG_SALT_BYTES)
        except (FileNotFoundError, Unreadable):
            return None

    def _chain_task(self, tree: Tree, facts: ControlFacts) -> ChainTask:
        return ChainTask(
            leaves=self._folder.leaves,
            segments=tree.segments,
            skipped=tuple(sorted(tree.skipped)),
            policies=facts.policies,
            keep=self._options.limit_findings,
        )

    def _take_chains(self, result: ChainResult, marks: Marks) -> ChainResult:
        name = self._folder.name(self._folder.leaves)
        for index, problem in result.problems:
            result.counts[problem.verdict] -= 1
            self._findings.add(about(problem.verdict, index, problem.reason, file=name, offset=index * LEAF_SIZE))
        for verdict, count in result.counts.items():
            self._findings.count(verdict, count)
        marks.flag_each(result.flagged)
        return result

    def _note_quarantine(self, inventory: Inventory) -> None:
        if inventory.unchecked_quarantine:
            self._notes.append(
                f"the bytes of {inventory.unchecked_quarantine} quarantined records are not beside this ledger, "
                "and were not checked"
            )

    def _judge_tail(
        self, inventory: Inventory, tree: Tree, extent: Extent, committed: int | None, length: int
    ) -> UnsignedTail:
        tail = Tail(self._folder, extent.leaves, self._options.patience, self._options.sleep)
        behind = leaves_behind(self._folder, tree.end, committed, extent.leaves, length)
        for finding in tail.judge([*behind, *inventory.leftovers]):
            self._findings.add(finding)
        return UnsignedTail(
            records=max(extent.leaves - tree.end, 0),
            checked=max(extent.size - extent.signed, 0),
            unfinished=tail.tolerated,
        )

    def _note_old_tail(self, leaves: Leaves, extent: Extent, chains: ChainResult) -> None:
        """Say so if records have gone unsigned for longer than a running collector lets them."""
        with open_or_empty(leaves.path) as file:
            oldest = known_leaf(LeafReader(file, leaves.segments).at(extent.signed))
        if oldest is None or chains.last_us is None or extent.size <= extent.signed:
            return
        seconds = (chains.last_us - oldest.ingest_us) // 1_000_000
        if seconds > MAX_UNSIGNED_SECONDS:
            self._notes.append(
                f"the records behind the head were sealed over {seconds} s, and a collector signs every second: "
                "unless this is a copy taken meanwhile, older heads were put in place of newer ones"
            )

    def _progress(self, step: str) -> Callable[[int, int], None]:
        name = self._folder.root.name
        return lambda done, total: self._options.progress(name, step, done, total)

    def _say(self, verdict: Verdict, reason: str, path: Path | None, remedy: str | None = None) -> None:
        name = None if path is None else self._folder.name(path)
        self._findings.add(Finding(verdict=verdict, reason=reason, file=name, remedy=remedy))

    def _report(self, heads: Heads, chains: ChainResult, tail: UnsignedTail) -> ShardReport:
        newest = heads.newest
        return ShardReport(
            directory=self._folder.name(self._folder.root),
            origin=newest.checkpoint.origin if newest else None,
            size=newest.checkpoint.size if newest else None,
            root=newest.checkpoint.root if newest else None,
            checkpoint=newest.encoded.decode() if newest else None,
            key=str(newest.key) if newest else None,
            first_us=chains.first_us,
            last_us=chains.last_us,
            counts=self._findings.counts,
            findings=self._findings.kept,
            findings_total=self._findings.total,
            unsigned_tail=tail,
            notes=self._notes,
        )
