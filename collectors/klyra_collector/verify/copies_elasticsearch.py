"""Verify the entries in Elasticsearch, with the ledger they were made from or with what the cluster keeps of it.

With the ledger: as any copy (`copies_store`), and `klyra-audit-ledger` too, out of which a lost ledger would be made
again. Without it, the ledger's records are written out of that index and verified first: signature, every leaf, every
control document. What that cannot show is an end that was cut off together with everything that speaks of it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from klyra_collector.verify.copies_ledger_index import LedgerIndexCheck
from klyra_collector.verify.copies_store import Moments, verify_copy
from klyra_collector.verify.elasticsearch_ledger import MAX_INDEX
from klyra_collector.verify.elasticsearch_restore import restore_records
from klyra_collector.verify.files import Unreadable, read_small
from klyra_collector.verify.layout import find_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
    from klyra_collector.verify.ledger import Options, ShardVerification
    from klyra_collector.verify.report import Report, ShardReport

_MAX_CURSOR_BYTES: Final = 1024 * 1024


def verify_with_ledger(copy: ElasticsearchCopy, ledger: Path, options: Options) -> Report:
    """Verify a ledger and its entries in Elasticsearch.

    Args:
        copy: the entries.
        ledger: a data, ledger or shard directory; it may be in use.
        options: as for the ledger alone.

    Raises:
        CannotVerify: there is no ledger, or the cluster cannot be read.
    """
    copy.expect(_noted(find_shards(ledger)[0].data))
    copy.freeze(partial(options.progress, copy.name, "waiting until a search finds everything"))
    options = replace(options, progress=_keeping(copy, options.progress))
    moments = Moments(claims=copy.claims(), documents_are_later=True)
    return verify_copy(copy, ledger, options, moments, more=partial(_check_ledger_index, copy, options))


def verify_alone(copy: ElasticsearchCopy, options: Options, *, collector: str | None = None) -> Report:
    """Verify the entries in Elasticsearch by what the cluster itself keeps of the ledger.

    Args:
        copy: the entries.
        options: `org_salt` is the reader's own, since a cluster keeps none.
        collector: `<ledger name>/<collector id>`; None for the only one there is.

    Raises:
        CannotVerify: there is nothing to verify, or the cluster cannot be read.
    """
    copy.freeze(partial(options.progress, copy.name, "waiting until a search finds everything"))
    index = copy.catch_up(partial(options.progress, copy.name, "waiting for the newest records in klyra-audit-ledger"))
    options = replace(options, progress=_keeping(copy, options.progress), bodies=False)
    with tempfile.TemporaryDirectory(prefix="klyra-audit-verify-") as folder:
        target = Path(folder)
        restored = restore_records(index, target, collector=collector, policy=options.policy)
        found = {shard.origin: shard.found for shard in restored}
        moments = Moments(claims=copy.claims(), documents_are_later=True, found=found)
        report = verify_copy(copy, target, options, moments)
    return replace(report, target=copy.address)


def _check_ledger_index(
    copy: ElasticsearchCopy, options: Options, shards: Iterable[ShardVerification]
) -> Iterator[ShardReport]:
    for shard in shards:
        check = LedgerIndexCheck(shard, options.limit_findings)
        report = check.run(copy.ledger_now, copy.cursors().get(shard.log, 0))
        if report.counts:  # of a shard that is younger than the collector's pause nothing needs to be there
            yield report


def _keeping(
    copy: ElasticsearchCopy, progress: Callable[[str, str, int, int], None]
) -> Callable[[str, str, int, int], None]:
    """Return a progress that has the cluster keep what is held on to: a ledger takes longer than it does by itself."""

    def show(shard: str, step: str, done: int, total: int) -> None:
        copy.keep()
        progress(shard, step, done, total)

    return show


def _noted(data: Path | None) -> Mapping[str, int]:
    """Return how far the follower of a data directory has written and found its entries, as it says itself."""
    if data is None:
        return {}
    try:
        noted = orjson.loads(read_small(data / "cursors" / "store.json", _MAX_CURSOR_BYTES))["searchable"]
        return {log: size for log, size in noted.items() if type(size) is int and 0 <= size <= MAX_INDEX}
    except (FileNotFoundError, Unreadable, ValueError, KeyError, TypeError, AttributeError):
        return {}
