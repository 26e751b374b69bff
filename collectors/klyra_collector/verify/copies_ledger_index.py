"""Compare the index `klyra-audit-ledger` with the ledger: a lost ledger would be made again out of it.

(1) Each bundle has the leaves and control documents that the ledger has at its place.
(2) Every full bundle below what the collector says it has written is there, and the newest records within minutes.
(3) No signed head is of another tree, or of a longer one, than the ledger's.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from klyra_audit.format import note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import LEAF_SIZE, Kind
from klyra_collector.verify.elasticsearch_ledger import BUNDLE_LEAVES, LEDGER_INDEX
from klyra_collector.verify.files import Unreadable, open_or_empty
from klyra_collector.verify.findings import Findings
from klyra_collector.verify.heads import MAX_KEPT
from klyra_collector.verify.report import ShardReport
from klyra_collector.verify.scan import LeafReader, known_leaf
from klyra_collector.verify.verdicts import Finding, Verdict
from klyra_collector.verify.walk import BlobWalker, Damage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.verify.elasticsearch_ledger import Bundle, LedgerIndex
    from klyra_collector.verify.ledger import ShardVerification

SETTLING_US: Final = 600_000_000  # a collector copies its newest records every 30 s
_HEAL: Final = (
    "stop the collector, delete cursors/store.json and what differs in klyra-audit-ledger, and start it again: "
    "everything still kept is compared, and what is missing is written"
)


class LedgerIndexCheck:
    """One run over what the index keeps of one shard.

    Args:
        shard: verified already.
        limit_findings: see `Options`.
    """

    def __init__(self, shard: ShardVerification, limit_findings: int) -> None:
        self._shard = shard
        self._findings = Findings(limit_findings)
        self._controls: dict[int, bytes] | None = None
        self._full: set[int] = set()
        self._end = 0

    def run(self, index: LedgerIndex, written: int) -> ShardReport:
        """Return what was found.

        Args:
            index: no earlier than `written` was noted.
            written: how many records the collector says it has written; 0 where nobody says so.

        Raises:
            CannotVerify: the index cannot be read.
        """
        shard = self._shard
        if shard.leaves is not None:
            try:
                with open_or_empty(shard.leaves.path) as file:
                    self._check_bundles(index, LeafReader(file, shard.leaves.segments))
            except Unreadable as error:
                self._say(Verdict.UNVERIFIABLE, f"the ledger cannot be read: {error}")
            self._look_for_missing(max(written, self._end))
            self._check_heads(index)
        findings = self._findings
        return ShardReport(
            directory=f"{LEDGER_INDEX} {shard.folder.root.name}",
            origin=shard.log,
            size=min(self._end, shard.extent.size),
            counts=findings.counts,
            findings=findings.kept,
            findings_total=findings.total,
        )

    def _check_bundles(self, index: LedgerIndex, leaves: LeafReader) -> None:
        for hit, bundle in index.copies(self._shard.log):
            if bundle is None or hit.source.get("size") != bundle.end or bundle.end > self._known():
                self._say(Verdict.EXTRA, f"the document {hit.id} is no part of this ledger")
                continue
            problem = self._compare(bundle, leaves)
            if problem is not None:
                self._say(problem, f"the document {hit.id} is not what the ledger has there", bundle.first, bundle.end)
                continue
            self._findings.count(Verdict.OK, bundle.end - max(bundle.first, min(self._end, bundle.end)))
            self._end = max(self._end, bundle.end)
            if bundle.is_full:
                self._full.add(bundle.first)

    def _known(self) -> int:
        return max(self._shard.extent.size, self._shard.extent.leaves)

    def _compare(self, bundle: Bundle, leaves: LeafReader) -> Verdict | None:
        """Return what a bundle is if it is not what the ledger has; the collector's own was changed, others added."""
        wrong = Verdict.ALTERED if bundle.is_of(self._shard.log) else Verdict.EXTRA
        expected: list[tuple[int, bytes]] = []
        for place in range(bundle.first, min(bundle.end, self._shard.extent.size)):
            encoded = leaves.at(place)
            if encoded is None:  # the ledger's own leaf cannot be trusted, which is said elsewhere
                continue
            offset = (place - bundle.first) * LEAF_SIZE
            if bundle.leaves[offset : offset + LEAF_SIZE] != encoded:
                return wrong
            leaf = known_leaf(encoded)
            if leaf is not None and not Kind(leaf.kind).has_body and place in self._documents():
                expected.append((place, self._documents()[place]))
        told = [(place, document) for place, document in bundle.controls if place < self._shard.extent.size]
        return wrong if [one for one in expected if one not in told] or len(told) > len(expected) else None

    def _documents(self) -> dict[int, bytes]:
        """Return the ledger's control documents by index."""
        if self._controls is None:
            with open_or_empty(self._shard.folder.control) as file:
                found = (item for _, _, item in BlobWalker(file).walk(0, file.size))
                self._controls = {item.index: item.payload for item in found if not isinstance(item, Damage)}
        return self._controls

    def _look_for_missing(self, written: int) -> None:
        """Say which bundles are not there, though they were written or should have been long ago."""
        shard = self._shard
        written = min(written, shard.extent.size)
        for first, last in _runs(range(0, written - written % BUNDLE_LEAVES, BUNDLE_LEAVES), self._full):
            self._say(Verdict.MISSING, "the copy of these records is not there", first, last + BUNDLE_LEAVES)
        due = shard.leaf(self._end)
        if self._end < written and due is not None and due.ingest_us <= shard.last_us - SETTLING_US:
            first = max(self._end, written - written % BUNDLE_LEAVES)
            if first < written:
                self._say(Verdict.MISSING, "the copy of these records is not there", first, written)

    def _check_heads(self, index: LedgerIndex) -> None:
        """Compare the newest signed heads there with the tree, and any of a longer one."""
        key, known = self._shard.heads.key, self._known()
        if key is None:
            return
        newest: deque[Checkpoint] = deque(maxlen=MAX_KEPT)
        for kept in index.notes(self._shard.log):
            try:
                head = Checkpoint.parse(note.open_note(kept.encoded, [key]).text)
            except FormatError:
                continue  # whoever writes there can leave anything: what is not signed says nothing
            if head.origin != self._shard.log:
                continue
            if head.size > known:
                self._say(
                    Verdict.ROLLBACK, f"a signed head of {head.size} records is kept there, and the ledger has {known}"
                )
            else:
                newest.append(head)
        for head in newest:
            if head.size <= self._shard.extent.size and self._shard.root_at(head.size) not in {None, head.root}:
                self._say(Verdict.FORK, f"a signed head of {head.size} records is kept there with another root")

    def _say(self, verdict: Verdict, reason: str, first: int | None = None, end: int | None = None) -> None:
        count = 1 if first is None or end is None else end - first
        last = None if first is None or end is None else end - 1
        remedy = _HEAL if verdict in {Verdict.MISSING, Verdict.ALTERED, Verdict.EXTRA} else None
        finding = Finding(
            verdict=verdict, reason=reason, first=first, last=last, file=LEDGER_INDEX, count=count, remedy=remedy
        )
        self._findings.add(finding)


def _runs(places: range, there: set[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run of places that are not there."""
    first: int | None = None
    for place in places:
        if place in there:
            if first is not None:
                yield first, place - places.step
            first = None
        elif first is None:
            first = place
    if first is not None:
        yield first, places[-1]
