"""What `klyra-audit status` says of a store in Elasticsearch."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from klyra_audit.errors import KlyraError
from klyra_collector.dead_letters import SUFFIX, DeadLetters
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.elasticsearch.condition import kept, stuck_indexes
from klyra_collector.store.elasticsearch.connection import connect, parse, probe
from klyra_collector.store.elasticsearch.cursor import FILE, load
from klyra_collector.store.elasticsearch.names import FOLLOWER

if TYPE_CHECKING:
    from klyra_collector.config import Settings
    from klyra_collector.data_directory import DataDirectory


def store_report(settings: Settings, now_us: int) -> dict[str, Any] | None:
    """Ask the cluster that is configured; None where entries are not in Elasticsearch.

    What keeps the cluster from answering is part of the report, under `trouble`.

    Args:
        settings: that what runs is given too.
        now_us: microseconds since 1970.
    """
    report: dict[str, Any] = {"trouble": None, "policies": [], "stuck": [], "behind": 0, "dead_letters": 0}
    url = settings.store.url
    if url is None or not settings.store.is_elasticsearch:
        return None
    try:
        report |= _followed(settings.data_directory)
        report |= _asked(url, now_us)
    except KlyraError as error:
        report["trouble"] = str(error)
    return report


def store_is_well(report: dict[str, Any] | None) -> bool:
    """Say whether nobody has to look at the store."""
    if report is None:
        return True
    alarms = (report["trouble"], report["dead_letters"], report["stuck"])
    return not (any(alarms) or any(one["overdue"] for one in report["policies"]))


def store_lines(report: dict[str, Any] | None) -> list[str]:
    """Return a report as lines of text."""
    if report is None:
        return []
    lines = [f"  {'store':<10} Elasticsearch is {report['behind']} records behind the ledger"]
    lines += [
        f"  {'store':<10} {one['policy']}: {one['documents']} kept, the oldest for {one['oldest_days']} days"
        for one in report["policies"]
    ]
    lines += [
        f"  {'ALARM':<10} {one['policy']}: {one['overdue']} should have been deleted; is the sweep running?"
        for one in report["policies"]
        if one["overdue"]
    ]
    lines += [
        f"  {'ALARM':<10} {one['index']}: lifecycle step {one['step']} failed: {one['reason']}; "
        f"mend it, then POST /{one['index']}/_ilm/retry"
        for one in report["stuck"] or ()
    ]
    if report["stuck"] is None:
        lines.append(f"  {'store':<10} this cluster does not explain lifecycles, so that stuck ones are not known here")
    if report["dead_letters"]:
        lines.append(
            f"  {'ALARM':<10} store: {report['dead_letters']} entries were refused for good: cursors/{FOLLOWER}{SUFFIX}"
            f" names them; mend the mapping, delete it and cursors/{FILE}, and restart: what is missing is written"
        )
    return [*lines, *([f"  {'ALARM':<10} store: {report['trouble']}"] if report["trouble"] else [])]


def _followed(data: DataDirectory) -> dict[str, Any]:
    """Return how far the follower is, by its own files."""
    applied = load(data.cursors).applied
    with contextlib.closing(LedgerReader(data.ledger)) as reader, contextlib.closing(Disk()) as disk:
        behind = sum(max(0, reader.committed(origin) - applied.get(origin, 0)) for origin in reader.origins())
        return {"behind": behind, "dead_letters": len(DeadLetters(data.cursors, FOLLOWER, disk))}


def _asked(url: str, now_us: int) -> dict[str, Any]:
    with contextlib.closing(connect(parse(url))) as client:
        flavor = probe(client).flavor
        policies = [asdict(one) for one in kept(client, now_us)]
        stuck = stuck_indexes(client, flavor)
    return {"policies": policies, "stuck": None if stuck is None else [asdict(one) for one in stuck]}
