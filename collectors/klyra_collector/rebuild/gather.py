"""Write a lost ledger out of Elasticsearch into a folder of its own, and see that it is what was signed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import Halted, Rejected
from klyra_audit.format import note
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import FormatError
from klyra_collector.verify.elasticsearch_bodies import restore_bodies
from klyra_collector.verify.elasticsearch_restore import collector_of, restore_records
from klyra_collector.verify.keyring import read_ring
from klyra_collector.verify.layout import find_shards, shard_order
from klyra_collector.verify.retention import MICROSECONDS_PER_DAY
from klyra_collector.verify.target import report_of, run_over
from klyra_collector.verify.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_audit.format.keys import VerifyingKey
    from klyra_audit.format.policy import Policy
    from klyra_collector.verify.elasticsearch_bodies import RestoredBodies
    from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
    from klyra_collector.verify.elasticsearch_restore import RestoredShard
    from klyra_collector.verify.ledger import Options
    from klyra_collector.verify.report import Report, ShardReport

NOT_AS_SIGNED: Final = frozenset(
    {
        *(Verdict.ALTERED, Verdict.ROOT_MISMATCH, Verdict.FORK, Verdict.BAD_SIGNATURE, Verdict.CONTROL_ALTERED),
        *(Verdict.ORG_CHAIN, Verdict.REORDERED, Verdict.UNVERIFIABLE),
    }
)
LOST: Final = frozenset({Verdict.MISSING, Verdict.TRUNCATED, Verdict.ROLLBACK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A ledger made again, in its own folder.

    Attributes:
        folder: laid out as a data directory, without keys.
        shards: what was found of each, oldest first.
        bodies: of each of them.
        report: what verification says of it.
        signed: the newest signed head that is known: of the index, or the one that the operator has kept.
    """

    folder: Path
    shards: Sequence[RestoredShard]
    bodies: Sequence[RestoredBodies]
    report: Report
    signed: Checkpoint

    @property
    def collector(self) -> str:
        """`<ledger name>/<collector id>`."""
        return collector_of(self.shards[-1].origin)

    @property
    def lost(self) -> int:
        """How many records, bodies or heads verification finds to be gone."""
        return sum(count for shard in self.report.shards for verdict, count in shard.counts.items() if verdict in LOST)


def gather(
    copy: ElasticsearchCopy, folder: Path, options: Options, *, now_us: int, collector: str | None = None
) -> Gathered:
    """Write a ledger and verify it.

    Args:
        copy: what the cluster keeps.
        folder: to write to; what an earlier run has left there is thrown away.
        options: to verify by; `org_salt` is given, and `expect_checkpoint` if somebody has kept one.
        now_us: the present, microseconds since 1970.
        collector: `<ledger name>/<collector id>`; None for the only one there is.

    Raises:
        CannotVerify: the cluster cannot be read, or keeps no such ledger.
        Halted: `not_as_signed`: what it keeps is not what was signed.
        Rejected: `bad_checkpoint`: the one that was kept is none of this ledger.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards = restore_records(copy.ledger, folder, collector=collector, policy=options.policy)
    kept = _kept(folder, options, collector_of(shards[-1].origin))
    records, reports = run_over(folder, replace(options, bodies=False))
    _refuse_other(reports)
    bodies = [restore_bodies(copy, shard, now_us // MICROSECONDS_PER_DAY) for shard in records.shards]
    _, reports = run_over(folder, options)
    _refuse_other(reports)
    return Gathered(
        folder=folder,
        shards=shards,
        bodies=bodies,
        report=report_of(folder, options, reports),
        signed=_newest(shards, kept),
    )


def _kept(folder: Path, options: Options, collector: str) -> Checkpoint | None:
    """Return the head that the operator has kept, None without any; it may be of a shard that is lost altogether."""
    if options.expect_checkpoint is None:
        return None
    path, encoded = options.expect_checkpoint
    announced = [key for shard in find_shards(folder) for key in read_ring(shard, None, [])[0].known]
    keys = list(dict.fromkeys([*_pinned(options.policy), *announced]))
    try:
        checkpoint = Checkpoint.parse(note.open_note(encoded, keys).text)
    except FormatError as error:
        raise _bad_checkpoint(path, str(error)) from error
    if collector_of(checkpoint.origin) != collector:
        raise _bad_checkpoint(path, f"it is of {checkpoint.origin}")
    return checkpoint


def _pinned(policy: Policy | None) -> list[VerifyingKey]:
    return [] if policy is None else [log.key for log in policy.logs]


def _newest(shards: Sequence[RestoredShard], kept: Checkpoint | None) -> Checkpoint:
    """Return the newest head; without any, verification would have refused before."""
    heads = [shard.head for shard in shards if shard.head is not None]
    if kept is not None:
        heads.append(kept)
    return max(heads, key=lambda head: (shard_order(Path(head.origin)), head.size))


def _refuse_other(reports: Sequence[ShardReport]) -> None:
    """Refuse records that are not those that were signed; those that are merely gone are for an operator to judge."""
    count = sum(report.counts.get(verdict, 0) for report in reports for verdict in NOT_AS_SIGNED)
    if not count:
        return
    findings = (finding for report in reports for finding in report.findings if finding.verdict in NOT_AS_SIGNED)
    first = next((f"{one.verdict} in {one.file}: {one.reason}" for one in findings), "too much is wrong")
    raise Halted(
        f"What Elasticsearch keeps of the ledger is not what was signed: {first} ({count} such findings).",
        remedy="Nothing was put in place. Look at all of it with: klyra-audit verify elasticsearch+https://HOST:9200.",
        code="not_as_signed",
    )


def _bad_checkpoint(path: Path, reason: str) -> Rejected:
    return Rejected(
        f"{path.name} is no checkpoint of this ledger: {reason}.",
        remedy="Give one that this collector has signed, such as a witness or an export packet has kept.",
        code="bad_checkpoint",
    )
