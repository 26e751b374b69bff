"""Verify a copy of the entries, such as the embedded store, together with the ledger it was made from.

(1) Verify the ledger: only its leaves can say what a copy must hold.
(2) See how far the copy has got in each shard; what lies behind that is not looked for.
(3) Join its documents with the leaves (`copies_join`): altered, missing, too many, doubled, moved, kept too long.
(4) See that it holds nothing of shards that the ledger does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from klyra_collector.verify.copies_bodies import BodiesByIndex
from klyra_collector.verify.copies_documents import DocumentChecker
from klyra_collector.verify.copies_join import CopyJoin, Sealed
from klyra_collector.verify.copies_sqlite import SqliteCopy
from klyra_collector.verify.facts import Place
from klyra_collector.verify.files import Unreadable, open_or_empty
from klyra_collector.verify.findings import Findings
from klyra_collector.verify.report import ShardReport
from klyra_collector.verify.retention import Retention
from klyra_collector.verify.scan import LeafReader
from klyra_collector.verify.target import report_of, run_over
from klyra_collector.verify.verdicts import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from klyra_collector.verify.copies import CopyReader
    from klyra_collector.verify.ledger import Around, Options, ShardVerification
    from klyra_collector.verify.report import Report


Grown = Callable[["ShardVerification"], int]


def verify_store(store: Path, ledger: Path, options: Options) -> Report:
    """Verify the embedded store and its ledger.

    Args:
        store: the file, which is only read; it may be in use.
        ledger: a data, ledger or shard directory.
        options: as for the ledger alone.

    Raises:
        CannotVerify: one of them is not there, or is no store or no ledger.
    """
    with SqliteCopy(store) as copy:
        return verify_copy(copy, ledger, options)


def verify_copy(copy: CopyReader, ledger: Path, options: Options, *, grown: Grown | None = None) -> Report:
    """Verify any copy of the entries and its ledger; the copy's shards are reported behind those of the ledger.

    Args:
        copy: the copy.
        ledger: see `verify_store`.
        options: see `verify_store`.
        grown: for a copy whose documents are of a later moment than its cursors: returns how many records a shard has
            by now.

    Raises:
        CannotVerify: as `verify_store`.
    """
    cursors = copy.cursors()  # before the ledger, which may grow meanwhile
    verification, reports = run_over(ledger, options)
    if verification.around is None:
        return report_of(ledger, options, reports)
    own = CopyVerification(copy, cursors, verification.shards, verification.around, options, grown)
    found = [*own.run()]
    # A copy is worth what the ledger is that it was compared with: the same key vouches for it, the same witnesses.
    newest = reports[-1]
    vouched = [replace(shard, key=newest.key, witnessed=newest.witnessed) for shard in found]
    return report_of(ledger, options, [*reports, *vouched])


class CopyVerification:
    """One run over a copy, by what verifying the ledger has established."""

    def __init__(
        self,
        copy: CopyReader,
        cursors: Mapping[str, int],
        shards: list[ShardVerification],
        around: Around,
        options: Options,
        grown: Grown | None = None,
    ) -> None:
        self._copy = copy
        self._cursors = cursors
        self._shards = shards
        self._around = around
        self._options = options
        self._grown = grown
        begun = [Place(shard.number, cursors[shard.log]) for shard in shards if cursors.get(shard.log)]
        self._applied = max(begun, default=Place(0, 0))
        org_salt = next((shard.org_salt for shard in shards if shard.org_salt is not None), None)
        self._checker = DocumentChecker(copy, org_salt)

    def run(self) -> Iterator[ShardReport]:
        """Yield what was found in each shard of the copy, then what belongs to none."""
        for shard in self._shards:
            yield self._check(shard)
        strays = self._check_strays()
        if strays.findings:
            yield strays

    def _check(self, shard: ShardVerification) -> ShardReport:
        findings, notes = Findings(self._options.limit_findings), list[str]()
        cursor = self._cursors.get(shard.log, 0)
        name = f"{self._copy.name} {shard.folder.root.name}"
        if cursor > shard.extent.size:
            reason = f"the copy has applied {cursor} records, and the ledger has {shard.extent.size}"
            findings.add(Finding(verdict=Verdict.ROLLBACK, reason=reason, file=self._copy.name))
        elif cursor < shard.extent.size and shard.number < self._applied.shard:
            reason = f"the copy has gone on to a later shard after {cursor} of {shard.extent.size} records"
            findings.add(Finding(verdict=Verdict.TRUNCATED, reason=reason, file=self._copy.name))
        elif cursor < shard.extent.size:
            notes.append(f"it has not applied the last {shard.extent.size - cursor} records yet")
        try:
            newer = self._join(shard, findings)
            if newer:
                notes.append(f"{newer} of its documents are newer than the ledger as it was looked at")
        except Unreadable as error:
            reason = f"the ledger cannot be read: {error}"
            findings.add(Finding(verdict=Verdict.UNVERIFIABLE, reason=reason, file=self._copy.name))
        return ShardReport(
            directory=name,
            origin=shard.log,
            size=min(cursor, shard.extent.size),
            counts=findings.counts,
            findings=findings.kept,
            findings_total=findings.total,
            notes=notes,
        )

    def _join(self, shard: ShardVerification, findings: Findings) -> int:
        """Join one shard; return how many documents were too new to be judged."""
        leaves = shard.leaves
        if leaves is None:
            reason = "the ledger's leaves cannot be read, so that nothing can be compared with them"
            findings.add(Finding(verdict=Verdict.UNVERIFIABLE, reason=reason, file=self._copy.name))
            return 0
        paths = [shard.folder.bodies(day) for day in shard.folder.body_days()]
        with open_or_empty(leaves.path) as file, BodiesByIndex(paths, shard.extent.size) as bodies:
            sealed = Sealed(
                origin=shard.log,
                size=shard.extent.size,
                leaves=LeafReader(file, leaves.segments),
                bodies=bodies,
                applied=self._applied,
                retention=self._retention(shard),
                day=self._around.day,
                progress=partial(self._options.progress, f"{self._copy.name} {shard.folder.root.name}", "entries"),
                grown=None if self._grown is None else partial(self._grown, shard),
            )
            join = CopyJoin(self._copy, sealed, self._checker, findings)
            join.run()
            return join.newer

    def _retention(self, shard: ShardVerification) -> Retention:
        """Return what decides about a shard's entries; a record that the copy has not applied asks nothing of it."""
        newest = self._shards[self._applied.shard]
        last = newest.leaf(min(self._applied.index, newest.extent.size) - 1)
        settled = -1 if last is None else last.ingest_us
        if self._applied >= Place(len(self._shards) - 1, self._shards[-1].extent.size):
            return Retention(self._around.facts, shard.log, quorum=self._around.quorum)
        return Retention(self._around.facts, shard.log, quorum=self._around.quorum, settled_us=settled - 1)

    def _check_strays(self) -> ShardReport:
        findings = Findings(self._options.limit_findings)
        for stray in self._copy.strays():
            findings.add(Finding(verdict=Verdict.EXTRA, reason=stray, file=self._copy.name))
        for origin in sorted(self._cursors.keys() - {shard.log for shard in self._shards}):
            for document in self._copy.documents(origin):
                reason = f"its shard {origin} is not in the ledger"
                findings.add(
                    Finding(
                        verdict=Verdict.EXTRA,
                        reason=reason,
                        file=self._copy.name,
                        organization_id=document.organization_id,
                    )
                )
        return ShardReport(
            directory=self._copy.name,
            counts=findings.counts,
            findings=findings.kept,
            findings_total=findings.total,
        )
