"""What `klyra-audit status` says of a store in Elasticsearch."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from klyra_audit.errors import KlyraError
from klyra_collector.config import Settings
from klyra_collector.store.elasticsearch.condition import kept, stuck_indexes
from klyra_collector.store.elasticsearch.connection import SCHEME, connect, parse, probe

if TYPE_CHECKING:
    from pathlib import Path


def store_report(data: Path, now_us: int) -> dict[str, Any] | None:
    """Ask the cluster that is configured; None where entries are not in Elasticsearch.

    What keeps the cluster from answering is part of the report, under `trouble`.

    Args:
        data: the data directory.
        now_us: microseconds since 1970.
    """
    try:
        url = Settings.load(data=data).store.url
        return _asked(url, now_us) if url is not None and url.startswith(SCHEME) else None
    except KlyraError as error:
        return {"trouble": str(error), "policies": [], "stuck": []}


def store_is_well(report: dict[str, Any] | None) -> bool:
    """Say whether nobody has to look at the store."""
    if report is None:
        return True
    return not (report["trouble"] or report["stuck"] or any(one["overdue"] for one in report["policies"]))


def store_lines(report: dict[str, Any] | None) -> list[str]:
    """Return a report as lines of text."""
    if report is None:
        return []
    lines = [
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
        for one in report["stuck"]
    ]
    return [*lines, *([f"  {'ALARM':<10} store: {report['trouble']}"] if report["trouble"] else [])]


def _asked(url: str, now_us: int) -> dict[str, Any]:
    with contextlib.closing(connect(parse(url))) as client:
        flavor = probe(client).flavor
        policies = [asdict(one) for one in kept(client, now_us)]
        stuck = [asdict(one) for one in stuck_indexes(client, flavor)]
    return {"trouble": None, "policies": policies, "stuck": stuck}
