"""Verify a copy of the entries, such as the embedded store, together with the ledger it was made from.

(1) Verify the ledger: only its leaves can say what a copy must hold.
(2) See how far the copy has got in each shard; what lies behind that is not looked for.
(3) Join its documents with the leaves (`copies_join`): altered, missing, too many, doubled, moved, kept too long.
(4) See that it holds nothing of shards that the ledger does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from klyra_audit.format.leaf import Kind
from klyra_collector.verify.copies_bodies import BodiesByIndex
from klyra_collector.verify.copies_documents import DocumentChecker
from klyra_collector.verify.copies_join import CopyJoin, Sealed
from klyra_collector.verify.copies_quarantine import QuarantineChecker
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
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_collector.verify.copies import CopyReader
    from klyra_collector.verify.ledger import Around, Options, ShardVerification
    from klyra_collector.verify.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """How the moments lie at which a copy's cursors, its documents and its ledger were looked at.

    Attributes:
        claims: origin → how far the copy says it is, which whoever writes there can overstate.
        documents_are_later: they may be of records behind the cursors, and all of these are in the ledger.
        found: for a ledger made from the copy, origin → how many records that gave; it may be behind the documents.
    """

    claims: Mapping[str, int] = field(default_factory=dict)
    documents_are_later: bool = False
    found: Mapping[str, int] | None = None


ONE_MOMENT: Final = Moments()


MoreReports = Callable[[Iterable["ShardVerification"]], Iterable[ShardReport]]


def _nothing_more(_: Iterable[ShardVerification]) -> Iterable[ShardReport]:
    return ()


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


def verify_copy(
    copy: CopyReader, ledger: Path, options: Options, moments: Moments = ONE_MOMENT, more: MoreReports = _nothing_more
) -> Report:
    """Verify any copy of the entries and its ledger; the copy's shards are reported behind those of the ledger.

    Args:
        copy: the copy.
        ledger: see `verify_store`.
        options: see `verify_store`.
        moments: see there.
        more: reports on what else the copy has of the ledger's shards.

    Raises:
        CannotVerify: as `verify_store`.
    """
    cursors = copy.cursors()  # before the ledger, which may grow meanwhile
    verification, reports = run_over(ledger, options)
    if verification.around is None:
        return report_of(ledger, options, reports)
    own = CopyVerification(copy, cursors, verification.shards, verification.around, options, moments)
    found = [*own.run(), *more(verification.shards)]
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
        moments: Moments,
    ) -> None:
        self._copy = copy
        sizes = {shard.log: shard.extent.size for shard in shards}
        claimed = {log: min(size, sizes.get(log, size)) for log, size in moments.claims.items()}
        self._cursors = {log: max(cursors.get(log, 0), claimed.get(log, 0)) for log in cursors.keys() | claimed.keys()}
        self._shards = shards
        self._around = around
        self._options = options
        self._moments = moments
        reached = self._cursors
        begun = [Place(shard.number, reached[shard.log]) for shard in shards if reached.get(shard.log)]
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
            notes.append(_behind(shard, cursor))
        try:
            newer = self._join(shard, findings)
            if newer:
                notes.append(f"{newer} of its documents are newer than anything that is signed")
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
        quarantined = self._copy.quarantined(shard.log)
        with open_or_empty(leaves.path) as file, BodiesByIndex(paths, shard.extent.size) as bodies:
            sealed = self._sealed(shard, LeafReader(file, leaves.segments), bodies)
            join = CopyJoin(self._copy.name, sealed, self._checker, findings)
            newer = join.run(self._copy.documents(shard.log))
            if quarantined is not None:
                sealed = replace(sealed, kind=Kind.QUARANTINE)
                newer += CopyJoin(self._copy.name, sealed, QuarantineChecker(), findings).run(quarantined)
        return newer

    def _sealed(self, shard: ShardVerification, leaves: LeafReader, bodies: BodiesByIndex) -> Sealed:
        size, moments = shard.extent.size, self._moments
        cursor = min(self._cursors.get(shard.log, 0), size)
        known, last = max(size, shard.extent.leaves), shard.last_us
        if moments.found is not None:
            known = max(size, moments.found.get(shard.log, 0))
        return Sealed(
            cursor=cursor,
            reach=size if moments.documents_are_later else cursor,
            known=known if moments.documents_are_later else cursor,
            behind_us=None if moments.found is None else last,
            leaves=leaves,
            bodies=bodies,
            applied=self._applied,
            retention=self._retention(shard),
            day=self._around.day,
            progress=partial(self._options.progress, f"{self._copy.name} {shard.folder.root.name}", "entries"),
        )

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
        own = {shard.log for shard in self._shards}
        for problem in self._copy.strays(own | self._cursors.keys()):
            findings.add(Finding(verdict=problem.verdict, reason=problem.reason, file=self._copy.name))
        for origin in sorted(self._cursors.keys() - own):
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


def _behind(shard: ShardVerification, cursor: int) -> str:
    """Return what to say of records that a copy has not applied; how old they are tells lag from a cut-off end."""
    count, leaf = shard.extent.size - cursor, shard.leaf(cursor)
    since = "" if leaf is None else f", the first of them sealed at {_time_text(leaf.ingest_us)}"
    return f"it has not applied the last {count} records yet{since}"


def _time_text(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
